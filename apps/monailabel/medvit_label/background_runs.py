"""Background runs in the journal: batches and trainings, one of a kind at a time, with the states of MONAI Label."""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass
from typing import Any, Literal

from medvit_label.errors import BusyError, UnknownError
from medvit_label.journal import Journal

__all__ = ["DONE", "ERROR", "RUNNING", "STOPPED", "RunKind", "RunRepository"]

RUNNING, DONE, ERROR, STOPPED = "RUNNING", "DONE", "ERROR", "STOPPED"
"""States of a run, in MONAI Label's words. A new server continues the runs that a stopped server left as running."""


@dataclass(frozen=True)
class RunKind:
    """A kind of run: its table in the journal, its name, and the requests that start and stop it."""

    table: Literal["batches", "trainings"]
    name: str
    start: str
    stop: str


class RunRepository:
    """Repository of one kind of run; each row has ``id``, ``model``, ``state``, ``created``, ``ended`` and ``info`` (JSON).

    Args:
        journal: the project's journal.
        kind: the kind of run.
    """

    def __init__(self, journal: Journal, kind: RunKind) -> None:
        self._journal, self._kind = journal, kind

    def require_none(self) -> None:
        """Refuse to start a run while another one runs.

        Raises:
            BusyError: another run is going on.
        """
        if self.running():
            raise BusyError(
                f"a {self._kind.name} that runs",
                "only one may run at a time",
                f"Wait for it, or stop it: {self._kind.stop}.",
            )

    def add(self, model: str, info: dict[str, Any], identity: str = "") -> dict[str, Any]:
        """Add a run in the state "running"; return its row.

        Raises:
            BusyError: another run is going on.
        """
        identity = identity or uuid.uuid4().hex
        with self._journal.transaction():
            self.require_none()
            self._journal.change(
                f"INSERT INTO {self._kind.table} VALUES (?, ?, ?, ?, NULL, ?)",
                identity, model, RUNNING, time.time(), json.dumps(info),
            )  # fmt: skip
        return self.row(identity)

    def write(self, identity: str, state: str, info: dict[str, Any]) -> None:
        """Update a run; unless its state is "running", set its end to now."""
        ended = None if state == RUNNING else time.time()
        self._journal.change(
            f"UPDATE {self._kind.table} SET state = ?, ended = ?, info = ? WHERE id = ?",
            state, ended, json.dumps(info), identity,
        )  # fmt: skip

    def running(self) -> list[dict[str, Any]]:
        """Return the runs in the state "running", including those that a stopped server left."""
        return self._rows("state = ?", RUNNING)

    def all(self) -> list[dict[str, Any]]:
        """Return all runs, oldest first."""
        return self._rows("1 ORDER BY created")

    def row(self, identity: str | None = None) -> dict[str, Any]:
        """Return one run; by default the newest.

        Raises:
            UnknownError: there is none.
        """
        rows = self._rows("id = ?", identity) if identity else self._rows("1 ORDER BY created DESC LIMIT 1")
        if not rows:
            raise UnknownError(f"no {self._kind.name} yet", f"start one: {self._kind.start}")
        return rows[0]

    def _rows(self, where: str, *values: Any) -> list[dict[str, Any]]:
        return self._journal.rows(f"SELECT * FROM {self._kind.table} WHERE {where}", *values)
