"""Implementation of the commands, called once their options are read."""

from __future__ import annotations

import json
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import typer

from medvit.cli.common import Terminal, WrongUseError, progress_bar
from medvit.errors import MedvitError
from medvit_batch.cases import CaseLocation, State
from medvit_batch.errors import BatchError
from medvit_batch.execution.batch import Batch, exit_code
from medvit_batch.execution.batch_folder import CATALOGUE, open_batch_folder
from medvit_batch.execution.session import Session
from medvit_batch.journal import Journal
from medvit_batch.options import BatchOptions
from medvit_batch.results.metrics import served

__all__ = [
    "Again",
    "checked",
    "closed",
    "open_session",
    "report_changes",
    "retry_batch",
    "run_batch",
    "show_plan",
    "write_reports",
]


@dataclass(frozen=True)
class Again:
    """Selection of the cases to try again, and the options that differ from the last run."""

    reason: str | None = None
    set_aside: bool = False
    other: dict[str, Any] = field(default_factory=dict)
    device: str | None = None


@contextmanager
def _sound_tables() -> Iterator[None]:
    """Raise a ``BatchError`` in place of an ``OperationalError`` of SQLite."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise BatchError(
            f"that the journal cannot be written ({error})",
            "without it nothing is run",
            (
                "Free some space or check its folder's permissions, then give the same command again: what was finished "
                "is not lost."
            ),
        ) from error


def checked(asked: BatchOptions, out: Path, make_key: bool = True) -> Batch:
    """Return the batch that options describe, with its bundles opened.

    Args:
        asked: the options.
        out: folder for the results.
        make_key: see ``BatchOptions.privacy``.

    Raises:
        MedvitError: an option is wrong. The command then exits with ``WRONG_USE``, so that a service is not started again.
    """
    try:
        batch = asked.lasting().batch(out, make_key)
        if batch.archive.is_dir():  # otherwise that is said first
            _ = batch.plan.options_hashes
    except MedvitError as error:
        raise WrongUseError(error) from error
    return batch


@contextmanager
def open_session(batch: Batch, shown: Terminal) -> Iterator[Session]:
    """Open a batch's folder for a session and serve its metrics while it is open.

    Raises:
        NetworkError: the port for metrics cannot be opened. Others: see ``open_batch_folder``.
    """
    with (
        _sound_tables(),
        open_batch_folder(batch, shown) as session,
        served(batch.out, batch.limits.metrics_port),
    ):
        yield session


def run_batch(asked: BatchOptions, out: Path, shown: Terminal) -> int:
    """Run a batch to its end; return the exit code."""
    batch = checked(asked, out)
    with open_session(batch, shown) as session:
        with progress_bar(shown) as progress:
            waiting = session.plan(progress)
        _say_plan(session, waiting, shown)
        report_changes(session)
        with session.stop.on_signals():
            session.work_off(waiting)
        return closed(session, shown)


def retry_batch(out: Path, again: Again, shown: Terminal) -> int:
    """Run failed cases again; return the exit code."""
    journal = Journal(out)
    last = journal.last_run()
    journal.close()
    if last is None:
        raise BatchError(
            f"no run in the journal of {out}", "there is nothing to try again", "Start with medvit batch run."
        )
    asked = BatchOptions.again(json.loads(last["command"]))
    asked = replace(asked, **again.other)
    if again.device is not None:
        asked = replace(asked, run={**asked.run, "device": again.device})
    with open_session(checked(asked, out), shown) as session:
        chosen = _chosen(session.journal, again)
        for case in chosen:
            session.journal.move(case, State.PENDING, tries=0, interrupted=0)
        with progress_bar(shown) as progress:
            waiting = session.plan(progress)
        report_changes(session)
        waiting = {case: key for case, key in waiting.items() if case in chosen}
        shown.say(f"{len(waiting)} case(s) are tried again.")
        with session.stop.on_signals():
            session.work_off(waiting)
        return closed(session, shown)


def _chosen(journal: Journal, again: Again) -> set[int]:
    states = (State.FAILED, State.SET_ASIDE) if again.set_aside else (State.FAILED,)
    rows = [row for row in journal.cases(*states) if row["stage"] != "plan"]
    words = (again.reason or "").casefold()
    found = {row["id"] for row in rows if words in f"{row['code']} {row['stage']} {row['reason']}".casefold()}
    if not found:
        kinds = ", ".join(sorted({row["code"] for row in rows})) or "none"
        what = f" with {again.reason!r} in their reason" if again.reason else ""
        raise BatchError(
            f"no failed cases{what}", f"the kinds of error there are: {kinds}", "See medvit batch status --cases."
        )
    return found


def closed(session: Session, shown: Terminal) -> int:
    """Record the end of a run, write its reports and print a summary; return the exit code."""
    ended = session.finish()
    journal, out = session.journal, session.batch.out
    write_reports(journal, out)
    code, counts = exit_code(journal, ended), journal.counts()
    if shown.json:
        content = {"output": str(out), "ended": ended, "cases": counts, "flagged": journal.flagged(), "exit_code": code}
        typer.echo(json.dumps(content, indent=2))
    listed = ", ".join(f"{n} {state}" for state, n in counts.items()) or "none"
    shown.say(f"Cases: {listed}; {journal.flagged()} flagged. For research use, not for diagnosis.")
    if ended == "signal" and counts.get(State.PENDING):
        shown.say(f"Stopped: {counts[State.PENDING]} case(s) wait. Give the same command again to go on.")
    shown.say(f"Report: {out / 'report.html'}")
    return code


def write_reports(journal: Journal, out: Path) -> None:
    """Write the tables, the HTML report and the metrics of a batch."""
    from medvit_batch.results.metrics import write_metrics
    from medvit_batch.results.report import write_report
    from medvit_batch.results.summary import summarize, write_tables

    summary = summarize(journal, out)
    write_tables(summary, out)
    write_report(summary, out)
    write_metrics(journal, out)


def report_changes(session: Session) -> None:
    """Write the tables and the report before cases run, if the scan of the archive changed any: a withdrawn result must
    not be listed as valid.
    """
    if session.unreported:
        write_reports(session.journal, session.batch.out)
        session.unreported = False


def _say_plan(session: Session, waiting: dict[int, CaseLocation], shown: Terminal) -> None:
    counts = session.journal.counts()
    files = session.catalogue.counts()
    lost = files.get("missing", 0) + files.get("unreadable", 0)
    if not files.get("planes") and not files.get("image"):
        total = sum(files.values())
        if lost:
            raise BatchError(
                (
                    f"{lost} file(s) in {session.batch.archive.name} that could not be read (links that lead nowhere, "
                    "content that was not fetched, no permission), and no image"
                ),
                "the files themselves are needed",
                "Fetch or copy them again.",
            )
        raise BatchError(
            f"no images among {total} file(s) in {session.batch.archive.name}",
            "DICOM series or image files are needed",
            "Check the path.",
        )
    others = ", ".join(f"{n} {state}" for state, n in counts.items() if state != State.PENDING)
    if lost:
        shown.say(f"{lost} file(s) could not be read; report.html says why, and which cases they may belong to.")
    shown.say(f"{len(waiting)} case(s) to run{f'; {others}' if others else ''}.")


def show_plan(asked: BatchOptions, out: Path, shown: Terminal) -> int:
    """Print the decision for each series; write nothing to ``out``."""
    from medvit_batch.catalogue.catalogue import Catalogue, secret_of
    from medvit_batch.execution.slurm import job_script
    from medvit_batch.results.dry_run import show_decisions

    batch = checked(asked, out, make_key=False)
    if not batch.archive.is_dir():
        raise BatchError(f"no folder at {asked.archive}", "an archive is a folder with images in it", "Check the path.")
    where = batch.limits.where
    script = job_script(where) if where is not None and where.cluster == "slurm" else ""
    with tempfile.TemporaryDirectory(prefix="medvit-") as folder, progress_bar(shown) as progress:
        catalogue = Catalogue(Path(folder) / CATALOGUE, secret_of(out / CATALOGUE))
        catalogue.look(batch.archive, out, progress)
        decisions = list(batch.plan.decide(catalogue))
        show_decisions(decisions, batch, catalogue, shown, script)
        catalogue.close()
    return 0
