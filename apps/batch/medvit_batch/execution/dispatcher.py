"""Dispatcher of a run: gives cases to workers, watches their time limits, and replaces workers that crash or hang.

It is the same for local workers and for those of a cluster; a ``Transport`` carries the messages.
"""

from __future__ import annotations

import time
from dataclasses import replace

from medvit_batch.cases import CaseJob
from medvit_batch.errors import BatchError
from medvit_batch.execution.messages import (
    Announced,
    Answer,
    CaseDone,
    CaseEnded,
    CaseReleased,
    CaseStarted,
    EndKind,
    Event,
    FromWorker,
    InputHashed,
    NextCase,
    ReadingEnded,
    ReadingStarted,
    RunCase,
    StageChanged,
    WorkerLost,
    WorkerReady,
)
from medvit_batch.execution.worker_handle import NEVER, ActiveCase, Transport, Worker, WorkerLink

__all__ = ["Dispatcher"]

_STARTING = 120.0
"""Seconds that a worker may take to start, on a busy machine with a cold disk."""

_LOADING = 600.0
"""Seconds for reading the input and loading a model, before the time limit of the case itself counts."""

_STARTS = 3
"""Number of workers in a row that may end before they are ready; then the run gives up."""


class Dispatcher:
    """Dispatcher that gives cases to workers and returns their events.

    Args:
        transport: connection to the workers.
        time_limit: seconds that a case may take once its model is loaded.
    """

    def __init__(self, transport: Transport, time_limit: float) -> None:
        self.transport, self.time_limit = transport, time_limit
        self.workers: list[Worker] = []
        self._failed_starts = 0

    def idle(self) -> int:
        """Return the number of further cases that workers could take now."""
        self._refresh()
        free = sum(1 for worker in self.workers if worker.case is None)
        return free + self.transport.startable(len(self.workers))

    def busy(self) -> int:
        """Return the number of cases that are being run or written."""
        return sum(len(worker.active()) for worker in self.workers)

    def hungry(self) -> int:
        """Return the number of workers that could be told their next case."""
        return sum(1 for worker in self.workers if worker.hungry())

    def ahead(self) -> dict[int, bool]:
        """Return the cases that workers were told to read ahead, with True if the worker is free now."""
        return {w.ahead.case: w.case is None for w in self.workers if w.ahead is not None}

    def tell(self, job: CaseJob) -> None:
        """Tell a worker its next case, so that it reads that case while it runs the current one."""
        worker = next(worker for worker in self.workers if worker.hungry())
        worker.ahead = job
        if worker.ready:
            worker.link.send(NextCase(job=job))

    def give(self, job: CaseJob, *, alone: bool = False) -> None:
        """Give a case to a free worker; start a worker if none is free.

        Args:
            job: the case.
            alone: True if the worker may do nothing else meanwhile.
        """
        self._remove_dead()
        worker = self._choose(job, alone)
        for other in self.workers:
            if other.ahead is not None and (other is worker or other.ahead.case == job.case):
                if other is not worker:
                    other.link.send(NextCase(job=None))
                other.ahead = None
        worker.case = ActiveCase(job=job, alone=alone)
        if worker.ready:
            self._send(worker)

    def answer(self, case: int, go_on: bool) -> None:
        """Answer the worker that hashed a case's images; a worker that has ended meanwhile is reported by ``wait``."""
        for worker in self.workers:
            if any(active.job.case == case for active in worker.active()):
                worker.link.send(Answer(go_on=go_on))

    def wait(self, seconds: float) -> list[Event]:
        """Return the events that arrive within that time, as soon as there is one."""
        nearest = min((worker.due() for worker in self.workers), default=NEVER) - time.monotonic()
        events: list[Event] = []
        for link, message in self.transport.wait(max(0.0, min(seconds, nearest))):
            worker = next((worker for worker in self.workers if worker.link is link), None)
            if worker is not None:  # an earlier message may have ended this worker
                events += self._take(worker, message)
        now = time.monotonic()
        for worker in [w for w in self.workers if now > w.due()]:
            events += self._time_out(worker, now)
        return events

    def stop(self) -> list[CaseJob]:
        """End all workers at once; return the cases that were not finished."""
        unfinished = [case.job for worker in self.workers for case in worker.active()]
        for worker in list(self.workers):
            self._end(worker)
        return unfinished

    def _refresh(self) -> None:
        self._remove_dead()
        for link in self.transport.joined():
            self._add(link)

    def _remove_dead(self) -> None:
        for dead in [w for w in self.workers if not w.active() and w.ready and not w.link.is_alive()]:
            self._end(dead)

    def _add(self, link: WorkerLink) -> Worker:
        worker = Worker(link=link, deadline=time.monotonic() + _STARTING)
        self.workers.append(worker)
        return worker

    def _choose(self, job: CaseJob, alone: bool) -> Worker:
        """Return a free worker that has read the case, or that has read none, or any other, or a new one."""
        free = [w for w in self.workers if w.case is None]
        if alone:  # a worker that still reads another case could be affected by it
            for worker in [w for w in free if w.reading is not None and w.behind is None]:
                self._end(worker)
            free = [w for w in free if w in self.workers]
        free.sort(key=lambda w: (w.ahead is None or w.ahead.case != job.case, w.ahead is not None))
        return free[0] if free else self._add(self.transport.start())

    def _send(self, worker: Worker) -> None:
        assert worker.case is not None
        if not self.transport.keeps_time_limit:
            worker.case.deadline = time.monotonic() + _LOADING + self.time_limit
        worker.link.send(RunCase(job=worker.case.job, alone=worker.case.alone))
        if worker.ahead is not None:
            worker.link.send(NextCase(job=worker.ahead))

    def _take(self, worker: Worker, message: FromWorker) -> list[Event]:
        """Handle a message from a worker; return the events it leads to."""
        match message:
            case WorkerReady():
                worker.ready, self._failed_starts = True, 0
                if worker.case is not None:
                    self._send(worker)
                return []
            case ReadingStarted():
                worker.reading = message.case
                return []
            case ReadingEnded():
                worker.reading = None
                return []
            case WorkerLost():
                return self._lost(worker, message.detail)
        active = next(case for case in worker.active() if case.job.case == message.case)
        match message:
            case InputHashed() | Announced():
                return [message]
            case CaseStarted():
                active.deadline = time.monotonic() + self.time_limit
            case StageChanged():
                active.stage = message.stage
            case CaseReleased():
                worker.case, worker.behind = None, active
            case CaseDone():
                return self._done(worker, active, message)
            case CaseEnded():  # decided by the dispatcher on the cluster's worker
                self._free(worker, active)
                return [replace(message, stage=message.stage or active.stage)]
        return []

    def _done(self, worker: Worker, active: ActiveCase, message: CaseDone) -> list[Event]:
        event = CaseEnded(
            case=message.case,
            kind=EndKind.DONE,
            outcome=message.outcome,
            stage=active.stage,
            concurrent_cases=worker.concurrent_cases(active, held=True),
        )
        if message.outcome.fatal:
            return [event, *self._requeue_others(worker, active)]
        self._free(worker, active)
        return [event]

    def _free(self, worker: Worker, active: ActiveCase) -> None:
        if active is worker.behind:
            worker.behind = None
        else:
            worker.case = None

    def _time_out(self, worker: Worker, now: float) -> list[Event]:
        if not worker.ready:
            return self._lost(worker, f"it was not ready after {_STARTING:.0f} s")
        late = next(case for case in worker.active() if now > case.deadline)
        # the case that runs may be late because another is being read; writing another has a time limit too and cannot delay it for long
        event = self._ended(worker, late, EndKind.TIMED_OUT)
        return [event, *self._requeue_others(worker, late)]

    def _requeue_others(self, worker: Worker, culprit: ActiveCase) -> list[Event]:
        """End a worker because of one case; return the end events of its other cases."""
        others = [case for case in worker.active() if case is not culprit]
        self._end(worker)
        return [CaseEnded(case=o.job.case, kind=EndKind.REQUEUED, stage=o.stage) for o in others]

    def _lost(self, worker: Worker, detail: str) -> list[Event]:
        """Remove a worker that has ended or did not become ready in time; return the end events of its cases."""
        self._end(worker)
        if worker.ready:
            return [self._ended(worker, case, EndKind.CRASHED, detail) for case in worker.active()]
        self._failed_starts += 1
        if self._failed_starts >= _STARTS:
            raise BatchError(
                f"{_STARTS} workers in a row that ended while they started ({detail})",
                "a worker must be able to start",
                "Run medvit doctor.",
            )
        return [
            CaseEnded(case=case.job.case, kind=EndKind.START_FAILED, detail=detail, stage=case.stage)
            for case in worker.active()
        ]

    def _ended(self, worker: Worker, case: ActiveCase, kind: EndKind, detail: str = "") -> CaseEnded:
        others = worker.concurrent_cases(case, held=False)
        return CaseEnded(case=case.job.case, kind=kind, detail=detail, stage=case.stage, concurrent_cases=others)

    def _end(self, worker: Worker) -> None:
        if worker in self.workers:
            self.workers.remove(worker)
        worker.link.end()
