"""Session of a run: enters the plan into the journal, runs the cases, and records each outcome before the next step."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace

from medvit.progress import Progress
from medvit.settings import thread_count
from medvit_batch.cases import CaseJob, CaseLocation, Decision, Outcome, State, case_name
from medvit_batch.catalogue.catalogue import Catalogue
from medvit_batch.events import Events
from medvit_batch.execution.batch import Batch, Limits
from medvit_batch.execution.case_outcomes import CaseOutcomes
from medvit_batch.execution.case_queue import Turns, was_interrupted
from medvit_batch.execution.deduplicator import Claims
from medvit_batch.execution.dispatcher import Dispatcher
from medvit_batch.execution.fork_server import fork_server_is_usable
from medvit_batch.execution.messages import Announced, Event, InputHashed
from medvit_batch.execution.pipe_transport import PipeTransport
from medvit_batch.execution.publish import remove_leftovers, staging_path, withdraw
from medvit_batch.execution.shutdown import Stop
from medvit_batch.journal import CaseRow, Journal

__all__ = ["Session"]

_TICK = 0.5
"""Seconds between checks for signals and free disk space."""


def _dispatcher(limits: Limits, say: Callable[[str], None]) -> Dispatcher:
    if limits.where is not None:
        from medvit_batch.execution.dask_transport import DaskTransport

        return Dispatcher(DaskTransport(limits.where, limits.time_limit), limits.time_limit)
    if not fork_server_is_usable():
        say("Found no fork server on this system; each worker loads torch and MONAI by itself when it starts.")
    threads = thread_count() or max(1, (os.cpu_count() or 1) // limits.workers)
    return Dispatcher(PipeTransport(limits.workers, threads=threads), limits.time_limit)


class Session:
    """Work of one process on a batch."""

    def __init__(
        self, batch: Batch, journal: Journal, catalogue: Catalogue, say: Callable[[str], None], events: Events
    ) -> None:
        self.batch, self.journal, self.catalogue, self.say, self.events = batch, journal, catalogue, say, events
        limits = batch.limits
        self.stop = Stop(limits.grace, say)
        self.dispatcher = _dispatcher(limits, say)
        self.number = journal.start({"archive": str(batch.archive), **batch.command})
        self.lasting = False
        """True if only a signal ends the session; after failures, or on a full disk, it rests and continues by itself."""

        self.unreported = False
        """True if the last scan of the archive changed cases or withdrew results that the tables and the report do not
        show yet.
        """

        self._short = False  # True if the last check found too little free space
        self._claims = Claims(journal, batch.out)
        self.outcomes = CaseOutcomes(
            batch=batch, journal=journal, claims=self._claims, events=events, say=say,
            no_space=self.no_space, stop_after_failures=self._too_many_failures,
        )  # fmt: skip
        self._turns = Turns(())
        self._next: dict[int, CaseJob] = {}  # cases that workers were told to read ahead
        self._active: dict[int, CaseJob] = {}

    def plan(
        self, progress: Progress, ready: Callable[[Decision], bool] = lambda decision: True
    ) -> dict[int, CaseLocation]:
        """Scan the archive and enter each decision; return the cases to run, with the keys of their images.

        Args:
            progress: receives the progress of the scan.
            ready: function that returns True if a series is complete and may be taken.
        """
        archive = self.batch.archive
        self.catalogue.look(archive, self.batch.out, progress, readers=max(1, (os.cpu_count() or 1) // 2))
        planned: set[int] = set()
        waiting: dict[int, CaseLocation] = {}
        for decision in self.batch.plan.decide(self.catalogue):
            progress.check()
            if not ready(decision):
                planned |= self.journal.numbers(decision)
                continue
            asked = self.batch.plan.options_hash_of(decision)
            withdrawn = self._withdrawn(decision)
            case, state, changed = self.journal.take(decision, asked, self.number, self.batch.out, withdrawn)
            self.unreported |= withdrawn is not None or (changed and state is not State.PENDING)
            planned.add(case)
            if state is State.PENDING:
                waiting[case] = decision.key
        self.journal.gone(planned, str(archive))
        self.journal.looked(self.number, self.catalogue.counts(), self.catalogue.unused())
        return waiting

    def _withdrawn(self, decision: Decision) -> tuple[str, str] | None:
        """Move away a result that may be another patient's; return a note for readers and one for its recipients, or
        None.
        """
        row = self.journal.doubted(decision)
        if row is None:
            return None
        place = withdraw(self.batch.out, row["folder"])
        moved = f"the earlier result was moved to {place}" if place else "the earlier result is gone"
        why = (
            "It is in question which patient these images are of"
            if decision.disputed
            else "The patient of these images was corrected"
        )
        peers = self.journal.recalled(row["folder"])
        recall = f"The earlier result was sent to {', '.join(peers)}: have it removed there." if peers else ""
        name = case_name(row["folder"])
        self.say(f"{name}: {why[0].lower()}{why[1:]}; {moved}. {recall}".rstrip())
        self.events.write("withdrawn", case=name, disputed=decision.disputed, folder=place, sent_to=peers)
        return f"{why}; {moved}.", recall

    def work_off(self, waiting: dict[int, CaseLocation], keep: bool = False) -> None:
        """Run cases until none is left or the run is to stop; unfinished cases then wait in the journal.

        Args:
            waiting: cases to run, with the keys of their images.
            keep: True if workers stay for the next call, with their models loaded.
        """
        self._turns, self._next = Turns(waiting), {}
        self.outcomes.total = self.outcomes.done + len(waiting)
        try:
            while (self._turns and not self.stop.asked) or self.dispatcher.busy():
                while self._turns and self.dispatcher.idle() and not self.stop.asked and self._room():
                    self._give(self._turns.pick(self.dispatcher.ahead()), waiting)
                self._tell_next(waiting)
                if self.stop.now:
                    break
                for event in self.dispatcher.wait(_TICK):
                    again = self._heard(event)
                    if again is not None:
                        self._turns.again(again)
        finally:
            if not keep:
                self.close()
            elif self.dispatcher.busy():
                self.end_workers()

    def _tell_next(self, keys: dict[int, CaseLocation]) -> None:
        """Tell workers their next cases, so that they read these ahead; the journal does not record it."""
        if self.stop.asked:
            return
        for case in self._turns.coming(self.dispatcher.ahead()):
            if not self.dispatcher.hungry():
                return
            row = self.journal.case(case)
            if not was_interrupted(row):
                self._next[case] = self._job(row, keys[case])
                self.dispatcher.tell(self._next[case])

    def close(self) -> None:
        """End the workers and close the connection to their cluster."""
        self.end_workers()
        self.dispatcher.transport.close()

    def end_workers(self) -> None:
        """End the workers; the cases assigned to them wait again."""
        for job in self.dispatcher.stop():
            self.journal.move(job.case, State.PENDING)
            remove_leftovers(self.batch.out, job.case)

    def _room(self) -> bool:
        free = shutil.disk_usage(self.batch.out).free / 1e9
        if free >= self.batch.limits.min_free_gb:
            if self._short:
                self.say(f"Found {free:.2f} GB free again; cases are run.")
            self._short = False
            return True
        self.no_space(
            f"Found {free:.2f} GB free where results go; {self.batch.limits.min_free_gb:g} GB are to stay free (--min-free-gb)."
        )
        return False

    def no_space(self, found: str) -> None:
        """Start no more cases for lack of space; print the reason once.

        Args:
            found: sentence that says what was found.
        """
        if not self._short:
            step = (
                "Free some space: it goes on by itself."
                if self.lasting
                else "Free some space, then give the same command again."
            )
            self.say(f"{found} {step}")
        self._short = True
        self._ask("space")

    def _ask(self, reason: str) -> None:
        """Start no more cases; a session that is to last lets running cases take as long as they need."""
        self.stop.ask(reason)
        if self.lasting and not self.stop.ended:
            self.stop.until = float("inf")

    def _too_many_failures(self, last: Outcome) -> None:
        """Stop, or rest, because too many cases in a row have failed.

        Args:
            last: outcome of the last failed case.
        """
        if self.stop.asked:
            return
        self._ask("failures")
        what = "Resting" if self.lasting else "Stopping"
        failures = self.outcomes.failures
        self.say(f"{what}: {failures} cases in a row failed (--stop-after). The last: {last.reason} {last.remedy}")

    def rested(self) -> None:
        """Continue after a rest; one more failure in a row makes it rest again."""
        self.outcomes.failures = min(self.outcomes.failures, self.batch.limits.stop_after - 1)
        self.stop.go_on()

    def _give(self, case: int, keys: dict[int, CaseLocation]) -> None:
        row = self.journal.case(case)
        job = self._next.pop(case, None) or self._job(row, keys[case])
        self.journal.move(case, State.RUNNING, tries=row["tries"] + 1, stage="start")
        remove_leftovers(self.batch.out, case)
        self._active[case] = job
        self.dispatcher.give(job, alone=case in self._turns.alone or was_interrupted(row))

    def _job(self, row: CaseRow, key: CaseLocation) -> CaseJob:
        case, root = row["id"], self.batch.plan.root(row["bundle"])
        group = self.catalogue.group(key.inside, key.series) if key.image is None else None
        work = self.batch.plan.work
        if work.privacy is not None and group is not None and group.issuer:
            work = replace(work, privacy=replace(work.privacy, issuer=group.issuer))
        return CaseJob(
            case=case,
            name=row["folder"],
            bundle=root,
            work=work,
            staging=staging_path(self.batch.out, case),
            group=group,
            key=key,
            note=row["note"],
        )

    def _heard(self, event: Event) -> int | None:
        """Record an event of a worker; return its case if it is to be tried again."""
        if isinstance(event, InputHashed):
            self.dispatcher.answer(event.case, self._claims.must_run(event.case, event.digest))
            return None
        if isinstance(event, Announced):
            self.say(event.text)
            self.events.write("announced", case=event.case, text=event.text)
            return None
        return self.outcomes.record(self._active.pop(event.case), event, self._turns)

    def finish(self) -> str:
        """Record the end of the run; return its reason in one word."""
        ended = self.stop.reason or "done"
        self.journal.finish(self.number, ended)
        self.events.write("end", outcome=ended, cases=self.journal.counts())
        return ended
