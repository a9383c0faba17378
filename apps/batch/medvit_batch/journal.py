"""Journal of a batch, ``journal.sqlite``: the state of each case, which survives a crash of the process or machine.

The journal holds no path and no patient data. Only commands that run cases write it, one at a time; other processes may
read it meanwhile. Each commit is on the disk before the next step.
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
"""Upgrades by the version they start from. Version 1 had "quality" for "rating", version 2 did not notice a corrected
patient, and version 3 had other names for four columns.
"""
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
"""States that may follow each state; any other change is a programming error."""

_CLEARED = {"stage": "", "code": "", "reason": "", "remedy": ""}


class CaseRow(TypedDict):
    """Row of the table of cases; flags, rating_reasons, notes, facts and seconds are JSON."""

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
    """Row of the table of runs; command, files and unused are JSON."""

    id: int
    started: str
    finished: str | None
    command: str
    outcome: str | None
    files: str | None
    unused: str | None


class Journal:
    """Database with the state of each case of a batch."""

    def __init__(self, folder: Path, *, new: bool = False) -> None:
        path = folder / JOURNAL
        if not new and not path.is_file():
            raise BatchError(f"no journal in {folder}", "a folder that medvit batch has written is needed", "Check -o.")
        self.base = connect(path, _SCHEMA, _VERSION, durable=True, upgrades=_UPGRADES)

    def close(self) -> None:
        """Close the database."""
        self.base.close()

    def start(self, command: Mapping[str, object]) -> int:
        """Record the start of a run with its command; return its number."""
        row = self.base.execute(
            "INSERT INTO runs (started, command) VALUES (?,?) RETURNING id", (_now(), json.dumps(command, default=str))
        ).fetchone()
        return int(row["id"])

    def agree(self, mark: str) -> None:
        """Check that all results of a batch are de-identified with the same key, or none is.

        Args:
            mark: mark of the key; empty if results keep the patient's attributes.

        Raises:
            BatchError: earlier runs used another key, or differ in de-identification.
        """
        self.base.execute("CREATE TABLE IF NOT EXISTS privacy (mark TEXT)")
        row = self.base.execute("SELECT mark FROM privacy").fetchone()
        earlier = row["mark"] if row is not None else "" if self.last_run() is not None else mark
        if earlier != mark:
            found = (
                "with another key" if earlier and mark else "with --deidentify" if earlier else "without --deidentify"
            )
            raise BatchError(
                f"results that were made {found}",
                "all results of a batch must be de-identified in the same way",
                "Choose another folder with -o, or use the earlier options.",
            )
        if row is None:
            self.base.execute("INSERT INTO privacy VALUES (?)", (mark,))

    def looked(self, run: int, files: dict[str, int], unused: list[tuple[str, str, str]]) -> None:
        """Record the number of files by kind that a run found, and the files that belong to no case."""
        self.base.execute("UPDATE runs SET files=?, unused=? WHERE id=?", (json.dumps(files), json.dumps(unused), run))

    def finish(self, run: int, outcome: str) -> None:
        """Record the end of a run."""
        self.base.execute("UPDATE runs SET finished=?, outcome=? WHERE id=?", (_now(), outcome, run))

    def last_run(self) -> RunRow | None:
        """Return the newest run; None if there is none."""
        row = self.base.execute("SELECT * FROM runs ORDER BY id DESC LIMIT 1").fetchone()
        return cast(RunRow, dict(row)) if row is not None else None

    def doubted(self, decision: Decision) -> CaseRow | None:
        """Return the published case of a decision if its result may now be another patient's; otherwise None."""
        row = self._row(decision)
        if row is None or State(row["state"]) is not State.PUBLISHED:
            return None
        return cast(CaseRow, dict(row)) if decision.disputed or _corrected(row, decision) else None

    def recalled(self, folder: str) -> list[str]:
        """Return the names of the peers that a result was sent to."""
        if self.base.execute("SELECT 1 FROM sqlite_master WHERE type='table' AND name='sends'").fetchone() is None:
            return []
        rows = self.base.execute(
            "SELECT DISTINCT peer FROM sends WHERE folder=? AND state IN ('sent', 'committed')", (folder,)
        )
        return [row["peer"] for row in rows.fetchall()]

    def take(
        self, decision: Decision, options_hash: str, run: int, home: Path, withdrawn: tuple[str, str] | None = None
    ) -> tuple[int, State, bool]:
        """Enter a decision; return the case, its state, and True if the state or the reason changed.

        A case that was published, failed or set aside by a worker keeps its state while its files and options are the
        same.

        Args:
            decision: decision on the case.
            options_hash: hash of all settings, beside the images, that decide the result.
            run: number of the run.
            home: folder of the batch.
            withdrawn: note for readers and note for recipients of an earlier result that was just withdrawn; None if
                none was.
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
            return case, state, False  # a result is kept even if this run does not ask for it
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
        """Return the number of a decision's case as a set; an empty set if it is not in the journal."""
        row = self._row(decision)
        return set() if row is None else {int(row["id"])}

    def known(self, decision: Decision, options_hash: str) -> tuple[State | None, bool]:
        """Return the state of a decision's case, and True if its files and options are unchanged."""
        row = self._row(decision)
        if row is None:
            return None, False
        same = (row["file_signature"], row["options_hash"]) == (decision.file_signature, options_hash)
        return State(row["state"]), same and not _corrected(row, decision)

    def gone(self, planned: set[int], archive: str) -> None:
        """Set aside waiting cases that an earlier run found in this archive and this one did not."""
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
        # a row without a bundle, from when the case was skipped, is replaced by this one
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
        """Change the state of a case; it is on the disk when this returns."""
        found = State(self.base.execute("SELECT state FROM cases WHERE id=?", (case,)).fetchone()["state"])
        if state not in _MAY[found]:
            raise AssertionError(f"case {case} cannot go from {found} to {state}")
        columns |= {"state": state, "updated": _now()}
        names = ", ".join(f"{name}=?" for name in columns)
        self.base.execute(f"UPDATE cases SET {names} WHERE id=?", (*columns.values(), case))

    def case(self, number: int) -> CaseRow:
        """Return one case."""
        return cast(CaseRow, dict(self.base.execute("SELECT * FROM cases WHERE id=?", (number,)).fetchone()))

    def cases(self, *states: State) -> Iterator[CaseRow]:
        """Yield the cases in these states, or in all if none is given, in the order they were found."""
        where = f"WHERE state IN ({','.join('?' * len(states))})" if states else ""
        for row in self.base.execute(f"SELECT * FROM cases {where} ORDER BY id", states).fetchall():
            yield cast(CaseRow, dict(row))

    def published_with_key(self, result_key: str) -> CaseRow | None:
        """Return the published case whose folder holds the result with this key (the same images, bundle and options),
        or None.
        """
        row = self.base.execute(
            "SELECT * FROM cases WHERE result_key=? AND state='published' LIMIT 1", (result_key,)
        ).fetchone()
        return cast(CaseRow, dict(row)) if row is not None else None

    def counts(self) -> dict[str, int]:
        """Return the number of cases in each state."""
        rows = self.base.execute("SELECT state, COUNT(*) AS n FROM cases GROUP BY state").fetchall()
        found = {row["state"]: int(row["n"]) for row in rows}
        return {state.value: found[state.value] for state in State if state.value in found}

    def flagged(self) -> int:
        """Return the number of published cases that a person must check."""
        return int(
            self.base.execute("SELECT COUNT(*) FROM cases WHERE state='published' AND flags<>'[]'").fetchone()[0]
        )


def _corrected(row: sqlite3.Row, decision: Decision) -> bool:
    """Return whether the headers state another patient than when the case was entered."""
    return bool(row["patient"] and decision.patient) and row["patient"] != decision.patient


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def sends_by_state(journal: Journal) -> dict[str, int]:
    """Return the number of results for all peers by state (waiting, sent, refused ...); empty if nothing is sent on."""
    there = journal.base.execute("SELECT 1 FROM sqlite_master WHERE type='table' AND name='sends'").fetchone()
    if there is None:
        return {}
    rows = journal.base.execute("SELECT state, COUNT(*) AS n FROM sends GROUP BY state").fetchall()
    return {row["state"]: int(row["n"]) for row in rows}
