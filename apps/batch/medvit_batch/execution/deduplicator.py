"""Claims on results, so that none is made twice: neither a published result nor one that another case is making."""

from __future__ import annotations

import hashlib
from pathlib import Path

from medvit_batch.cases import State, case_name
from medvit_batch.journal import Journal

__all__ = ["Claims"]


class Claims:
    """Results being made by the running cases; a result is identified by its input's digest and its options."""

    def __init__(self, journal: Journal, out: Path) -> None:
        self._journal, self._out = journal, out
        self._makers: dict[str, int] = {}  # result key to the running case that makes it
        self._result_keys: dict[int, str] = {}
        self._why_not: dict[int, tuple[State, str]] = {}

    def must_run(self, case: int, digest: str) -> bool:
        """Return False if this case's folder, or another case, already holds exactly this result; otherwise claim it
        and return True.
        """
        row = self._journal.case(case)
        result_key = hashlib.sha256(f"{row['options_hash']}|{digest}".encode()).hexdigest()
        if row["result_key"] == result_key and (self._out / row["folder"] / "run.json").is_file():
            self._why_not[case] = (State.PUBLISHED, "")
            return False
        other = self._journal.published_with_key(result_key)
        if other is None and self._makers.get(result_key, case) != case:
            other = self._journal.case(self._makers[result_key])
        if other is not None and other["id"] != case:
            reason = f"the same images as {case_name(other['folder'])}, which holds the result"
            self._why_not[case] = (State.SKIPPED, reason)
            return False
        self._makers[result_key], self._result_keys[case] = case, result_key
        return True

    def result_key(self, case: int) -> str:
        """Return the key of the result that a running case makes."""
        return self._result_keys[case]

    def why_not(self, case: int) -> tuple[State, str]:
        """Return the state of a case that need not be run, and the reason."""
        return self._why_not.pop(case)

    def release(self, case: int) -> None:
        """Release the claim of a case that is not running any more."""
        self._makers.pop(self._result_keys.pop(case, ""), None)
