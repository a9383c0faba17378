"""``medvit batch watch``: series that arrive in a folder. A series is taken when none of its files has arrived or
changed for a while.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from medvit.cli.common import Terminal, WrongUseError
from medvit.errors import OutputError, out_of_space
from medvit.progress import Progress
from medvit_batch.cases import Decision
from medvit_batch.commands import checked, closed, open_session, report_changes, write_reports
from medvit_batch.errors import BatchError
from medvit_batch.execution.publish import recover
from medvit_batch.execution.session import Session
from medvit_batch.options import BatchOptions

__all__ = ["Pace", "watch_folder"]

_NAP = 0.2
"""Seconds between checks for signals."""

_SHORTEST_REST, _LONGEST_REST = 6, 60
"""Shortest and longest rest after failures in a row, in multiples of the interval between scans."""


@dataclass(frozen=True)
class Pace:
    """Timing of a watch: the age at which a series is complete, and the interval between scans.

    Attributes:
        quiet_for: seconds without new or changed files after which a series is complete.
        every: seconds between scans of the folder.
        complete_at: number of slices at which a series is complete at once; 0 for none.
    """

    quiet_for: float = 60.0
    every: float = 10.0
    complete_at: int = 0


def watch_folder(
    asked: BatchOptions,
    out: Path,
    shown: Terminal,
    pace: Pace,
    beside: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> int:
    """Run series as they become complete, until a signal; return the exit code.

    After several failures in a row the function pauses, first for six intervals, and then tries one more case. If disk
    space runs out, it waits until there is more.

    The age of a file counts from its arrival in the folder or its last change, whichever is later. A file that was just
    copied is therefore new, even if the copy kept an old modification time. ``beside`` returns a context manager that
    is open during the watch, such as a DICOM receiver.
    """
    for name, value in (("--quiet-for", pace.quiet_for), ("--every", pace.every), ("--complete-at", pace.complete_at)):
        if not value >= 0:
            raise WrongUseError(BatchError(f"{name} {value:g}", "at least 0 is needed", "Correct it."))
    with open_session(checked(asked, out), shown) as session, session.stop.on_signals():
        session.lasting = True
        shown.say(f"Watching; a series is taken when it is quiet for {pace.quiet_for:g} s. Ctrl-C ends it.")
        with beside():
            rest = _SHORTEST_REST * pace.every
            while not session.stop.ended:
                _look_or_rest(session, pace)
                failed = session.stop.reason == "failures"
                _sleep(session, rest if failed else pace.every)
                rest = min(2 * rest, _LONGEST_REST * pace.every) if failed else _SHORTEST_REST * pace.every
                session.rested()
        return closed(session, shown)


def _look_or_rest(session: Session, pace: Pace) -> None:
    """Scan the folder once; a full disk only ends this scan, and running cases wait again."""
    try:
        _look(session, pace)
        return
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_FULL:
            raise
    except OutputError as error:
        if not out_of_space(error.__cause__):
            raise
    session.no_space("Found no space left where results go.")
    with contextlib.suppress(sqlite3.OperationalError, OutputError):
        session.close()
        recover(session.journal, session.batch.out)


def _look(session: Session, pace: Pace) -> None:
    oldest = time.time_ns() - int(pace.quiet_for * 1e9)

    def ready(decision: Decision) -> bool:
        return decision.changed <= oldest or 0 < pace.complete_at <= decision.facts.slices

    waiting = session.plan(Progress(), ready)
    report_changes(session)
    done = session.outcomes.done
    if waiting:
        session.work_off(waiting, keep=True)
    if session.outcomes.done != done:
        write_reports(session.journal, session.batch.out)


def _sleep(session: Session, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and not session.stop.ended:
        time.sleep(_NAP)
