"""The workers of a run: started, given jobs, watched, and replaced when they crash or hang."""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import StrEnum
from multiprocessing.connection import wait
from typing import Any, Protocol

from medvit_batch.cases import CaseJob
from medvit_batch.errors import BatchError
from medvit_batch.execution.case_runner import run_case
from medvit_batch.execution.worker import Runner
from medvit_batch.execution.worker_handle import FIRST_STEPS, NEVER, ActiveCase, Worker, how_it_ended, started

__all__ = ["Event", "EventKind", "Pool"]

_LOADING = 600.0
"""Seconds that reading the input and loading a model may take, before the clock of the case itself starts."""

_LAST_STEPS = 10.0
"""Seconds that a worker without a connection may take to be gone."""

_STARTS = 3
"""Workers that may die before they are ready, one after the other, until the run gives up."""

_MEMORY = ("MemoryError", "OutOfMemoryError", "MemoryShortError")
"""Kinds of error of a case that had too little memory."""


class EventKind(StrEnum):
    """A kind of event in the life of a case at a worker."""

    INPUT = "input"
    STAGE = "stage"
    DONE = "done"
    START_FAILED = "start_failed"
    TIMED_OUT = "timed_out"
    CRASHED = "crashed"
    REQUEUED = "requeued"
    SKIPPED = "skipped"


class Asking(Protocol):
    """Who did it."""

    stage: str

    def answer(self, go_on: bool) -> None:
        """Tell it whether to go on."""


@dataclass(frozen=True)
class Event:
    """Something a worker did.

    Attributes:
        what: INPUT (content is a hash, and an answer is due), STAGE, DONE (an ``Outcome``), TIMED_OUT, CRASHED (the worker died;
            content says how), START_FAILED (it died before it began), REQUEUED (it was ended because of another case).
        job: the case it concerns.
        content: as said.
        worker: who.
        concurrent_cases: numbers of other cases that the worker had in hand, one of which may be the reason.
    """

    what: EventKind
    job: CaseJob
    content: Any
    worker: Asking
    concurrent_cases: frozenset[int] = frozenset()

    @property
    def may_be_caused_by_another(self) -> bool:
        """Whether it may be another case's doing: where a worker died, hung, or ran out of memory."""
        return self.what in (EventKind.TIMED_OUT, EventKind.CRASHED) or (
            self.what is EventKind.DONE and self.content.code in _MEMORY
        )


class Pool:
    """Up to ``count`` worker processes.

    Args:
        count: how many.
        time_limit: seconds a case may take once its model is loaded.
        threads: that each may use.
        run: what a worker does with a job.
        sharers: how many workers share this machine's memory, where they are not these alone; a case is then written before the next
            is given.
    """

    def __init__(self, count: int, time_limit: float, threads: int, run: Runner = run_case, sharers: int = 0) -> None:
        self.count, self.time_limit, self.threads, self.run = count, time_limit, threads, run
        self.sharers, self.behind = max(count, sharers), not sharers
        self.workers: list[Worker] = []
        self.failed_starts = 0

    def idle(self) -> int:
        """How many more jobs could be given."""
        return self.count - sum(1 for worker in self.workers if worker.case is not None)

    def busy(self) -> int:
        """How many cases are being run or written."""
        return sum(len(worker.in_hand()) for worker in self.workers)

    def hungry(self) -> int:
        """How many workers could be told what comes next."""
        return sum(1 for worker in self.workers if worker.hungry())

    def ahead(self) -> dict[int, bool]:
        """Numbers of the cases that workers were told come next, and whether their worker is free now."""
        return {w.ahead.case: w.case is None for w in self.workers if w.ahead is not None}

    def tell(self, job: CaseJob) -> None:
        """Tell a worker what comes next, so that it reads it beside what it runs."""
        worker = next(worker for worker in self.workers if worker.hungry())
        worker.ahead = job
        if worker.ready:
            worker.send("next", job)

    def give(self, job: CaseJob, alone: bool = False) -> None:
        """Give a job to a worker that has none; one is started if there is none.

        Args:
            job: the case.
            alone: whether its worker does nothing beside it.
        """
        for dead in [w for w in self.workers if not w.in_hand() and w.ready and not w.process.is_alive()]:
            self._end(dead)
        worker = self._choose(job, alone)
        for other in self.workers:
            if other.ahead is not None and (other is worker or other.ahead.case == job.case):
                if other is not worker:
                    other.send("next", None)
                other.ahead = None
        worker.case = ActiveCase(job, worker, time.monotonic(), NEVER, alone=alone)
        if worker.ready:
            self._send(worker)

    def _choose(self, job: CaseJob, alone: bool) -> Worker:
        """The worker that has read the case, or one that has read no other, or any."""
        free = [w for w in self.workers if w.case is None]
        if alone:  # nor what another case may still do to its worker
            for worker in [w for w in free if w.reading is not None and w.behind is None]:
                self._end(worker)
            free = [w for w in free if w in self.workers]
        free.sort(key=lambda w: (w.ahead is None or w.ahead.case != job.case, w.ahead is not None))
        return free[0] if free else self._start()

    def _start(self) -> Worker:
        worker = started(self.run, self.threads, self.sharers, self.behind)
        self.workers.append(worker)
        return worker

    def _send(self, worker: Worker) -> None:
        assert worker.case is not None
        worker.case.deadline = time.monotonic() + _LOADING + self.time_limit
        worker.send("job", (worker.case.job, worker.case.alone))
        if worker.ahead is not None:
            worker.send("next", worker.ahead)

    def wait(self, seconds: float) -> list[Event]:
        """What happens within that time; returns as soon as something did."""
        events: list[Event] = []
        ends: dict[Any, Worker] = {w.connection: w for w in self.workers}
        ends |= {w.process.sentinel: w for w in self.workers}
        nearest = min((w.due() for w in self.workers), default=NEVER) - time.monotonic()
        for worker in {ends[end] for end in wait(list(ends), max(0.0, min(seconds, nearest)))}:
            events += self._heard(worker)
        now = time.monotonic()
        for worker in [w for w in self.workers if now > w.due()]:
            events += self._late(worker, now)
        return events

    def _late(self, worker: Worker, now: float) -> list[Event]:
        if not worker.ready:
            self._end(worker)
            return self._unborn(worker, f"it was not ready after {FIRST_STEPS:.0f} s")
        late = next(case for case in worker.in_hand() if now > case.deadline)
        # reading another case can hold up the one that runs; writing one, for which there is a time too, cannot for long
        event = Event(EventKind.TIMED_OUT, late.job, late.stage, late, worker.concurrent_cases(late, held=False))
        return [event, *self._rest(worker, late)]

    def _rest(self, worker: Worker, culprit: ActiveCase) -> list[Event]:
        """End a worker because of a case: what else it had in hand goes back."""
        others = [case for case in worker.in_hand() if case is not culprit]
        self._end(worker)
        return [Event(EventKind.REQUEUED, case.job, None, case) for case in others]

    def _heard(self, worker: Worker) -> list[Event]:
        events: list[Event] = []
        try:
            while worker in self.workers and worker.connection.poll():
                events += self._take(worker, *worker.connection.recv())
        except (EOFError, OSError):  # it has let go of its end, so it is about to be gone
            worker.process.join(_LAST_STEPS)
        if worker.process.is_alive() or worker not in self.workers:
            return events
        how = how_it_ended(worker.process)
        self._end(worker)
        if not worker.ready:
            return [*events, *self._unborn(worker, how)]
        lost = [
            Event(EventKind.CRASHED, case.job, how, case, worker.concurrent_cases(case, held=False))
            for case in worker.in_hand()
        ]
        return events + lost

    def _take(self, worker: Worker, what: str, number: int, content: Any) -> list[Event]:
        if what == "ready":
            worker.ready, self.failed_starts = True, 0
            if worker.case is not None:
                self._send(worker)
            return []
        if what in ("reading", "read"):
            worker.reading = number if what == "reading" else None
            return []
        case = next(case for case in worker.in_hand() if case.job.case == number)
        if what == "free":
            worker.case, worker.behind = None, case
            return []
        if what == "started":
            case.deadline = time.monotonic() + self.time_limit
            return []
        if what == "stage":
            case.stage = content
        if what != "done":
            return [Event(EventKind(what), case.job, content, case)]
        event = Event(EventKind.DONE, case.job, content, case, worker.concurrent_cases(case, held=True))
        if content.fatal:
            return [event, *self._rest(worker, case)]
        if case is worker.behind:
            worker.behind = None
        else:
            worker.case = None
        return [event]

    def _unborn(self, worker: Worker, how: str) -> list[Event]:
        """A worker died before it was ready: that is nobody's case's fault."""
        self.failed_starts += 1
        if self.failed_starts >= _STARTS:
            raise BatchError(
                f"Found {_STARTS} workers in a row that died while they started ({how}); nothing can be run so. Run medvit doctor."
            )
        return [Event(EventKind.START_FAILED, case.job, how, case) for case in worker.in_hand()]

    def _end(self, worker: Worker) -> None:
        if worker in self.workers:
            self.workers.remove(worker)
        worker.end()

    def stop(self) -> list[CaseJob]:
        """End all workers at once; return the jobs that were not finished."""
        left = [case.job for worker in self.workers for case in worker.in_hand()]
        for worker in list(self.workers):
            self._end(worker)
        return left
