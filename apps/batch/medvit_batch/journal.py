"""The journal of a batch, ``journal.sqlite``: where every case stands. It survives whatever ends the process.

It holds no path and no patient data. Only ``medvit batch run`` and the like write it, one at a time; anybody may read it
meanwhile. A commit is on the disk before anything follows from it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TypedDict, cast

from medvit_batch.cases import CASES, Decision, State
from medvit_batch.errors import BatchError
from medvit_batch.sqlite import connect

__all__ = ["JOURNAL", "CaseRow", "Journal", "RunRow", "sends_by_state"]

JOURNAL = "journal.sqlite"
_VERSION = 4
_UPGRADES = {
    1: "ALTER TABLE cases RENAME COLUMN quality TO rating; ALTER TABLE cases RENAME COLUMN quality_reasons TO rating_reasons",
    2: "ALTER TABLE cases ADD COLUMN patient TEXT DEFAULT ''; ALTER TABLE cases ADD COLUMN note TEXT DEFAULT ''; "
    "ALTER TABLE cases ADD COLUMN recall TEXT DEFAULT ''",
    3: "ALTER TABLE cases RENAME COLUMN stamp TO file_signature; ALTER TABLE cases RENAME COLUMN asked TO options_hash; "
    "ALTER TABLE cases RENAME COLUMN held TO result_key; ALTER TABLE cases RENAME COLUMN seal TO run_sha256; "
    "DROP INDEX of_held; CREATE INDEX of_result_key ON cases (result_key)",
}
"""From version 1, in which a rating was called a word on quality, version 2, which did not notice that a patient was corrected, and
version 3, which had other names for four columns."""
_SCHEMA = """
CREATE TABLE runs (
  id INTEGER PRIMARY KEY, started TEXT, finished TEXT, command TEXT, outcome TEXT, files TEXT, unused TEXT);
CREATE TABLE cases (
  id INTEGER PRIMARY KEY, volume TEXT, bundle TEXT, folder TEXT UNIQUE, state TEXT, stage TEXT DEFAULT '', code TEXT DEFAULT '',
  reason TEXT DEFAULT '', remedy TEXT DEFAULT '', facts TEXT, file_signature TEXT, options_hash TEXT, input TEXT, result_key TEXT,
  flags TEXT DEFAULT '[]', rating TEXT DEFAULT '', rating_reasons TEXT DEFAULT '[]', notes TEXT DEFAULT '[]',
  version TEXT DEFAULT '', weights TEXT DEFAULT '', run_sha256 TEXT DEFAULT '', seconds TEXT DEFAULT '{}', peak_mb REAL DEFAULT 0,
  tries INTEGER DEFAULT 0, interrupted INTEGER DEFAULT 0, run INTEGER, updated TEXT,
  patient TEXT DEFAULT '', note TEXT DEFAULT '', recall TEXT DEFAULT '', UNIQUE (volume, bundle));
CREATE INDEX of_state ON cases (state);
CREATE INDEX of_result_key ON cases (result_key);
"""

_MAY = {
    State.PENDING: {State.RUNNING, State.SET_ASIDE, State.SKIPPED, State.PENDING},
    State.RUNNING: {State.CHECKED, State.FAILED, State.SET_ASIDE, State.SKIPPED, State.PENDING, State.PUBLISHED},
    State.CHECKED: {State.PUBLISHED, State.PENDING, State.FAILED},
    State.PUBLISHED: {State.PENDING, State.SET_ASIDE, State.SKIPPED},
    State.FAILED: {State.PENDING, State.SET_ASIDE, State.SKIPPED},
    State.SET_ASIDE: {State.PENDING, State.SET_ASIDE, State.SKIPPED},
    State.SKIPPED: {State.PENDING, State.SET_ASIDE, State.SKIPPED},
}
"""Which state may follow which; anything else is a mistake in the program."""

_CLEARED = {"stage": "", "code": "", "reason": "", "remedy": ""}


class CaseRow(TypedDict):
    """A row of the table of cases; flags, reasons, notes, facts and seconds are JSON."""

    id: int
    volume: str
    bundle: str
    folder: str
    state: str
    stage: str
    code: str
    reason: str
    remedy: str
    facts: str
    file_signature: str
    options_hash: str
    input: str | None
    result_key: str | None
    flags: str
    rating: str
    rating_reasons: str
    notes: str
    version: str
    weights: str
    run_sha256: str
    seconds: str
    peak_mb: float
    tries: int
    interrupted: int
    run: int
    updated: str
    patient: str
    note: str
    recall: str


class RunRow(TypedDict, total=False):
    """A row of the table of runs; command, files and unused are JSON."""

    id: int
    started: str
    finished: str | None
    command: str
    outcome: str | None
    files: str | None
    unused: str | None


class Journal:
    """Where every case stands."""

    def __init__(self, folder: Path, *, new: bool = False) -> None:
        path = folder / JOURNAL
        if not new and not path.is_file():
            raise BatchError(
                f"Found no journal in {folder}; a folder that medvit batch has written is needed. Check -o."
            )
        self.base = connect(path, _SCHEMA, _VERSION, durable=True, upgrades=_UPGRADES)

    def close(self) -> None:
        """Let go of the file."""
        self.base.close()

    def start(self, command: Mapping[str, object]) -> int:
        """Note that a run starts, with all it was asked; return its number."""
        row = self.base.execute(
            "INSERT INTO runs (started, command) VALUES (?,?) RETURNING id", (_now(), json.dumps(command, default=str))
        ).fetchone()
        return int(row["id"])

    def agree(self, mark: str) -> None:
        """See that all results of a batch are de-identified with one key, or none is.

        Args:
            mark: of the key; empty where results carry the patient's attributes on.

        Raises:
            BatchError: earlier runs did otherwise.
        """
        self.base.execute("CREATE TABLE IF NOT EXISTS privacy (mark TEXT)")
        row = self.base.execute("SELECT mark FROM privacy").fetchone()
        earlier = row["mark"] if row is not None else "" if self.last_run() is not None else mark
        if earlier != mark:
            found = (
                "with another key" if earlier and mark else "with --deidentify" if earlier else "without --deidentify"
            )
            raise BatchError(
                f"Found results that were made {found}; those of one batch are kept alike, so that nobody takes one for the other. "
                "Choose another folder with -o, or ask as before."
            )
        if row is None:
            self.base.execute("INSERT INTO privacy VALUES (?)", (mark,))

    def looked(self, run: int, files: dict[str, int], unused: list[tuple[str, str, str]]) -> None:
        """Note what kinds of files a run found, and those that no case was made of."""
        self.base.execute("UPDATE runs SET files=?, unused=? WHERE id=?", (json.dumps(files), json.dumps(unused), run))

    def finish(self, run: int, outcome: str) -> None:
        """Note how a run ended."""
        self.base.execute("UPDATE runs SET finished=?, outcome=? WHERE id=?", (_now(), outcome, run))

    def last_run(self) -> RunRow | None:
        """The newest run."""
        row = self.base.execute("SELECT * FROM runs ORDER BY id DESC LIMIT 1").fetchone()
        return cast(RunRow, dict(row)) if row is not None else None

    def doubted(self, decision: Decision) -> CaseRow | None:
        """Return the case of a decision, if it is published and its result may now be another patient's."""
        row = self._row(decision)
        if row is None or State(row["state"]) is not State.PUBLISHED:
            return None
        return cast(CaseRow, dict(row)) if decision.disputed or _corrected(row, decision) else None

    def recalled(self, folder: str) -> list[str]:
        """Return names of the peers that a result was sent to."""
        if self.base.execute("SELECT 1 FROM sqlite_master WHERE type='table' AND name='sends'").fetchone() is None:
            return []
        rows = self.base.execute(
            "SELECT DISTINCT peer FROM sends WHERE folder=? AND state IN ('sent', 'committed')", (folder,)
        )
        return [row["peer"] for row in rows.fetchall()]

    def take(
        self, decision: Decision, options_hash: str, run: int, home: Path, withdrawn: tuple[str, str] | None = None
    ) -> tuple[int, State, bool]:
        """Enter a decision; return the case, its state, and whether it had to change.

        A case that was done, failed or set aside by a worker stays so as long as its files and what is asked are the same.

        Args:
            decision: what is to be done.
            options_hash: hash of what decides the result, beside the images.
            run: number of the run.
            home: the batch.
            withdrawn: what a reader must know of an earlier result that was withdrawn now, and of those who have it.
        """
        row = self._row(decision)
        if row is None:
            return self._insert(decision, options_hash, run), decision.state, True
        case, state = int(row["id"]), State(row["state"])
        same = (
            (row["file_signature"], row["options_hash"]) == (decision.file_signature, options_hash)
            and withdrawn is None
            and not _corrected(row, decision)
        )
        if decision.state is State.PENDING:
            settled = state is State.FAILED or (state in (State.SET_ASIDE, State.SKIPPED) and row["stage"] != "plan")
            whole = state is State.PUBLISHED and (home / row["folder"] / "run.json").is_file()
            if same and (settled or whole or state in (State.PENDING, State.RUNNING, State.CHECKED)):
                return case, state, False
        elif (state is State.PUBLISHED and decision.state is State.SKIPPED and withdrawn is None) or (
            state is decision.state and row["reason"] == decision.reason and same
        ):
            return case, state, False  # a result stays, though this run does not ask for it
        planned = {"stage": "plan", "code": decision.code, "reason": decision.reason, "remedy": ""}
        words = _CLEARED if decision.state is State.PENDING else planned
        if withdrawn is not None:
            words = {**words, "note": withdrawn[0], "recall": withdrawn[1]}
            words |= {} if decision.state is State.PENDING else {"remedy": " ".join(filter(None, withdrawn))}
        elif state is State.PUBLISHED:
            words = {**words, "note": "", "recall": ""}
        facts = {
            "facts": json.dumps(asdict(decision.facts)),
            "file_signature": decision.file_signature,
            "options_hash": options_hash,
            "run": run,
        }
        facts |= {"patient": decision.patient} if decision.patient else {}
        self.move(case, decision.state, **words, **facts, tries=0, interrupted=0)
        return case, decision.state, True

    def numbers(self, decision: Decision) -> set[int]:
        """The case of a decision, if it is in the journal."""
        row = self._row(decision)
        return set() if row is None else {int(row["id"])}

    def known(self, decision: Decision, options_hash: str) -> tuple[State | None, bool]:
        """The state that a decision's case is in, and whether its files and what is asked are still the same."""
        row = self._row(decision)
        if row is None:
            return None, False
        same = (row["file_signature"], row["options_hash"]) == (decision.file_signature, options_hash)
        return State(row["state"]), same and not _corrected(row, decision)

    def gone(self, planned: set[int], archive: str) -> None:
        """Set aside what waits, was found in this archive by an earlier run, and was not found again."""
        rows = self.base.execute(
            "SELECT c.id, r.command FROM cases c JOIN runs r ON r.id=c.run WHERE c.state='pending'"
        ).fetchall()
        for row in rows:
            if row["id"] not in planned and json.loads(row["command"])["archive"] == archive:
                reason = "Found none of its files any more; they were there in an earlier run. Put them back, or leave it so."
                self.move(row["id"], State.SET_ASIDE, stage="plan", code="gone", reason=reason)

    def _row(self, decision: Decision) -> sqlite3.Row | None:
        row: sqlite3.Row | None = self.base.execute(
            "SELECT * FROM cases WHERE volume=? AND bundle=?", (decision.volume, decision.bundle)
        ).fetchone()
        return row

    def _insert(self, decision: Decision, options_hash: str, run: int) -> int:
        planned = decision.state is not State.PENDING
        # what was skipped before it was known which bundle it would go to needs no row beside the one that says more
        self.base.execute(
            "DELETE FROM cases WHERE volume=? AND bundle='' AND ?<>''", (decision.volume, decision.bundle)
        )
        row = self.base.execute(
            "INSERT INTO cases (volume, bundle, folder, state, stage, code, reason, facts, file_signature, options_hash, run, updated, patient) "
            "VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?) RETURNING id",
            (
                decision.volume, decision.bundle, f"{CASES}/{decision.folder}", decision.state, "plan" if planned else "", decision.code,
                decision.reason if planned else "", json.dumps(asdict(decision.facts)), decision.file_signature, options_hash, run, _now(),
                decision.patient,
            ),
        ).fetchone()  # fmt: skip
        return int(row["id"])

    def move(self, case: int, state: State, **columns: object) -> None:
        """Bring a case into another state; on the disk when this returns."""
        found = State(self.base.execute("SELECT state FROM cases WHERE id=?", (case,)).fetchone()["state"])
        if state not in _MAY[found]:
            raise AssertionError(f"case {case} cannot go from {found} to {state}")
        columns |= {"state": state, "updated": _now()}
        names = ", ".join(f"{name}=?" for name in columns)
        self.base.execute(f"UPDATE cases SET {names} WHERE id=?", (*columns.values(), case))

    def case(self, number: int) -> CaseRow:
        """One case."""
        return cast(CaseRow, dict(self.base.execute("SELECT * FROM cases WHERE id=?", (number,)).fetchone()))

    def cases(self, *states: State) -> Iterator[CaseRow]:
        """Cases in these states, in all if none is named, in the order they were found."""
        where = f"WHERE state IN ({','.join('?' * len(states))})" if states else ""
        for row in self.base.execute(f"SELECT * FROM cases {where} ORDER BY id", states).fetchall():
            yield cast(CaseRow, dict(row))

    def published_with_key(self, result_key: str) -> CaseRow | None:
        """The published case whose folder holds exactly this: these images, this bundle, these settings."""
        row = self.base.execute(
            "SELECT * FROM cases WHERE result_key=? AND state='published' LIMIT 1", (result_key,)
        ).fetchone()
        return cast(CaseRow, dict(row)) if row is not None else None

    def counts(self) -> dict[str, int]:
        """How many cases are in each state."""
        rows = self.base.execute("SELECT state, COUNT(*) AS n FROM cases GROUP BY state").fetchall()
        found = {row["state"]: int(row["n"]) for row in rows}
        return {state.value: found[state.value] for state in State if state.value in found}

    def flagged(self) -> int:
        """How many published cases a person must look at."""
        return int(
            self.base.execute("SELECT COUNT(*) FROM cases WHERE state='published' AND flags<>'[]'").fetchone()[0]
        )


def _corrected(row: sqlite3.Row, decision: Decision) -> bool:
    """Return whether the headers state another patient than when the case was entered."""
    return bool(row["patient"] and decision.patient) and row["patient"] != decision.patient


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def sends_by_state(journal: Journal) -> dict[str, int]:
    """How many results wait for all peers, are sent, or were refused; empty where nothing is sent on."""
    there = journal.base.execute("SELECT 1 FROM sqlite_master WHERE type='table' AND name='sends'").fetchone()
    if there is None:
        return {}
    rows = journal.base.execute("SELECT state, COUNT(*) AS n FROM sends GROUP BY state").fetchall()
    return {row["state"]: int(row["n"]) for row in rows}
