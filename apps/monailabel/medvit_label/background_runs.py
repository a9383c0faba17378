"""What goes on in the background, as the journal has it: batches and trainings, one of a kind at a time, states in MONAI Label's words."""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass
from typing import Any, Literal

from medvit_label.errors import BusyError, UnknownError
from medvit_label.journal import Journal

__all__ = ["DONE", "ERROR", "RUNNING", "STOPPED", "Kind", "Runs"]

RUNNING, DONE, ERROR, STOPPED = "RUNNING", "DONE", "ERROR", "STOPPED"
"""States in MONAI Label's words. What a stopped server leaves as running is gone on with by the next one."""


@dataclass(frozen=True)
class Kind:
    """A kind of run: its table in the journal, its name, and the requests that start and stop it."""

    table: Literal["batches", "trainings"]
    name: str
    start: str
    stop: str


class Runs:
    """The rows of one kind of run; each is ``id``, ``model``, ``state``, ``created``, ``ended`` and ``info`` (JSON).

    Args:
        journal: where they are written down.
        kind: which.
    """

    def __init__(self, journal: Journal, kind: Kind) -> None:
        self._journal, self._kind = journal, kind

    def require_none(self) -> None:
        """Refuse while one runs.

        Raises:
            BusyError: one does.
        """
        if self.running():
            raise BusyError(
                f"Found a {self._kind.name} that runs; one at a time may. Wait for it, or stop it: {self._kind.stop}."
            )

    def add(self, model: str, info: dict[str, Any], identity: str = "") -> dict[str, Any]:
        """Write a run down as running; its row.

        Raises:
            BusyError: another runs.
        """
        identity = identity or uuid.uuid4().hex
        with self._journal.together():
            self.require_none()
            self._journal.change(
                f"INSERT INTO {self._kind.table} VALUES (?, ?, ?, ?, NULL, ?)",
                identity, model, RUNNING, time.time(), json.dumps(info),
            )  # fmt: skip
        return self.row(identity)

    def write(self, identity: str, state: str, info: dict[str, Any]) -> None:
        """Write down where a run stands; with another state than running it has ended now."""
        ended = None if state == RUNNING else time.time()
        self._journal.change(
            f"UPDATE {self._kind.table} SET state = ?, ended = ?, info = ? WHERE id = ?",
            state, ended, json.dumps(info), identity,
        )  # fmt: skip

    def going(self) -> list[dict[str, Any]]:
        """Those that run, or ran when an earlier server ended."""
        return self._rows("state = ?", RUNNING)

    def running(self) -> bool:
        """Whether one is going on."""
        return bool(self.going())

    def all(self) -> list[dict[str, Any]]:
        """All, oldest first."""
        return self._rows("1 ORDER BY created")

    def row(self, identity: str | None = None) -> dict[str, Any]:
        """One of them; by default the newest.

        Raises:
            UnknownError: there is none.
        """
        rows = self._rows("id = ?", identity) if identity else self._rows("1 ORDER BY created DESC LIMIT 1")
        if not rows:
            raise UnknownError(f"Found no {self._kind.name} yet; start one: {self._kind.start}.")
        return rows[0]

    def _rows(self, where: str, *values: Any) -> list[dict[str, Any]]:
        return self._journal.rows(f"SELECT * FROM {self._kind.table} WHERE {where}", *values)
