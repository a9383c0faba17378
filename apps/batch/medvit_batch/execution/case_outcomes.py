"""Outcomes of cases: each is recorded in the journal, its result is published, or its case is tried again."""

from __future__ import annotations

import json
from collections.abc import Callable

from medvit_batch.cases import CaseJob, Outcome, State, case_name
from medvit_batch.events import Events
from medvit_batch.execution.batch import Batch
from medvit_batch.execution.case_queue import Turns
from medvit_batch.execution.deduplicator import Claims
from medvit_batch.execution.messages import CaseEnded, EndKind
from medvit_batch.execution.publish import publish_case, remove_leftovers
from medvit_batch.journal import Journal

__all__ = ["CaseOutcomes"]

_TRIES = 2
"""Tries of a case whose worker was ended from outside, by the system or by a person."""


class CaseOutcomes:
    """Recorder of the outcomes of a run's cases."""

    def __init__(
        self,
        *,
        batch: Batch,
        journal: Journal,
        claims: Claims,
        events: Events,
        say: Callable[[str], None],
        no_space: Callable[[str], None],
        stop_after_failures: Callable[[Outcome], None],
    ) -> None:
        """Create the recorder without outcomes.

        Args:
            batch, journal, events: objects of the run.
            claims: cases with equal input, of which only one runs.
            say: prints a line.
            no_space: called with a sentence when a result did not fit on the disk.
            stop_after_failures: called with the last outcome when as many cases in a row have failed as are allowed.
        """
        self.batch, self.journal, self.events, self.say = batch, journal, events, say
        self.failures = self.done = self.total = 0
        self._claims, self._no_space, self._stop_after_failures = claims, no_space, stop_after_failures

    def record(self, job: CaseJob, event: CaseEnded, turns: Turns) -> int | None:
        """Record the end of a case.

        Args:
            job: the case.
            event: how its worker ended it.
            turns: queue of the cases; told which of them may have ended another one's worker.

        Returns:
            The number of the case if it is to be tried again, else None.
        """
        if event.may_be_caused_by_another and turns.suspect(job.case, event.concurrent_cases):
            return self._back(job, "another case in the same worker may be the reason; it is tried again by itself")
        match event.kind:
            case EndKind.DONE:
                assert event.outcome is not None
                self._done(job, event.outcome)
            case EndKind.TIMED_OUT:
                limit = self.batch.limits.time_limit
                reason = f"Found that the case took longer than {limit:g} s (--time-limit) and ended it."
                self._settle(
                    job,
                    Outcome(
                        state=State.FAILED,
                        stage=event.stage,
                        code="TimeLimit",
                        reason=reason,
                        remedy="Retry it with a longer --time-limit.",
                    ),
                )
            case EndKind.CRASHED:
                return self._lost(job, event.stage, event.detail)
            case EndKind.START_FAILED:
                return self._back(job, "")
            case EndKind.REQUEUED:
                return self._back(job, "its worker was ended because of another case; it is tried again")
        return None

    def _back(self, job: CaseJob, why: str) -> int:
        """Put a case back in the queue as if it had not been tried; return its number."""
        self._claims.release(job.case)
        self.journal.move(job.case, State.PENDING, tries=self.journal.case(job.case)["tries"] - 1)
        remove_leftovers(self.batch.out, job.case)
        if why:
            self._tell(job, State.PENDING, why, Outcome(state=State.PENDING))
        return job.case

    def _done(self, job: CaseJob, outcome: Outcome) -> None:
        if outcome.state is State.SKIPPED:
            state, reason = self._claims.why_not(job.case)
            words = {"stage": "input", "code": "copy", "reason": reason} if reason else {"stage": ""}
            self.journal.move(job.case, state, **words)
            self._tell(job, state, reason or "nothing has changed", outcome)
        elif outcome.state is State.CHECKED:
            self._publish(job, outcome)
        elif outcome.full:
            self.journal.move(job.case, State.PENDING)
            self._no_space(outcome.reason)
        else:
            self._settle(job, outcome)
        self._claims.release(job.case)

    def _publish(self, job: CaseJob, outcome: Outcome) -> None:
        row = self.journal.case(job.case)
        result_key = self._claims.result_key(job.case)
        columns = {
            "stage": "", "code": "", "reason": "", "remedy": "", "result_key": result_key, "flags": json.dumps((*outcome.flags, *filter(None, [row["recall"]]))),
            "rating": outcome.rating, "rating_reasons": json.dumps(outcome.rating_reasons), "notes": json.dumps(outcome.notes),
            "version": outcome.version, "weights": outcome.weights, "run_sha256": outcome.run_sha256, "seconds": json.dumps(outcome.seconds),
            "peak_mb": outcome.peak_mb, "interrupted": 0,
        }  # fmt: skip
        self.journal.move(job.case, State.CHECKED, **columns)
        publish_case(self.batch.out, job.case, row["folder"])
        self.journal.move(job.case, State.PUBLISHED)
        self.failures = 0
        self._tell(job, State.PUBLISHED, f"rating {outcome.rating}{', flagged' if outcome.flags else ''}", outcome)

    def _lost(self, job: CaseJob, stage: str, how: str) -> int | None:
        tries = self.journal.case(job.case)["tries"]
        self._claims.release(job.case)
        if "ended by" in how and tries < _TRIES:
            self.journal.move(job.case, State.PENDING)
            self._tell(
                job,
                State.PENDING,
                f"its worker was lost ({how}); it is tried again",
                Outcome(state=State.PENDING, stage=stage),
            )
            return job.case
        killed = " The system ends processes so when memory runs out." if "SIGKILL" in how else ""
        reason = f"Found its worker dead: {how}.{killed}"
        remedy = "Retry it with fewer workers or more memory; if it fails again, run medvit segment on the series and report it."
        self._settle(job, Outcome(state=State.FAILED, stage=stage, code="WorkerDied", reason=reason, remedy=remedy))
        return None

    def _settle(self, job: CaseJob, outcome: Outcome) -> None:
        """Record a case that gave no result; stop or rest after too many failures in a row."""
        self.journal.move(
            job.case, outcome.state, stage=outcome.stage, code=outcome.code, reason=outcome.reason, remedy=outcome.remedy,
            seconds=json.dumps(outcome.seconds), peak_mb=outcome.peak_mb, interrupted=0,
        )  # fmt: skip
        self._claims.release(job.case)
        self._tell(job, outcome.state, outcome.reason, outcome)
        if outcome.state is not State.FAILED:
            return
        self.failures += 1
        if self.failures >= self.batch.limits.stop_after:
            self._stop_after_failures(outcome)

    def _tell(self, job: CaseJob, state: State, words: str, outcome: Outcome) -> None:
        self.done += state is not State.PENDING
        name = case_name(job.name)
        if not self.events.printed:
            self.say(f"[{self.done}/{self.total}] {name}: {state}{f', {words}' if words else ''}")
        self.events.write("case", case=name, state=state, stage=outcome.stage, code=outcome.code, reason=outcome.reason, rating=outcome.rating, seconds=outcome.seconds)  # fmt: skip
