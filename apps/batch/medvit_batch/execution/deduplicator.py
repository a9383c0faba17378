"""Which result each case at work will hold, so that nothing is made twice: not what is there, nor what another case is making."""

from __future__ import annotations

import hashlib
from pathlib import Path

from medvit_batch.cases import State, case_name
from medvit_batch.journal import Journal

__all__ = ["Claims"]


class Claims:
    """The results being made by the cases at work; a result is told by its input's digest and what was asked of it."""

    def __init__(self, journal: Journal, out: Path) -> None:
        self._journal, self._out = journal, out
        self._makers: dict[str, int] = {}  # what a case at work will hold, to the case
        self._result_keys: dict[int, str] = {}
        self._why_not: dict[int, tuple[State, str]] = {}

    def must_run(self, case: int, digest: str) -> bool:
        """Whether a case must be run: not if its folder, or another case's, holds exactly this result. If so, it is claimed."""
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
        """What a case at work will hold."""
        return self._result_keys[case]

    def why_not(self, case: int) -> tuple[State, str]:
        """What becomes of a case that need not be run, and why."""
        return self._why_not.pop(case)

    def release(self, case: int) -> None:
        """A case is at work no more."""
        self._makers.pop(self._result_keys.pop(case, ""), None)
