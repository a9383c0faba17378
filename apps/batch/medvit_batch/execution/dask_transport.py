"""Transport to the workers of a Dask cluster; each Dask worker runs a case as a task.

Each Dask worker has a dispatcher with one worker process of ours, which keeps its model loaded and reads the next case
while it runs one. So a time limit, a crash or lack of memory affects one case, as it does on a single machine. Before a
case is run, its Dask worker hashes the images and the run decides whether the case must be run. Results are first
written below the batch's folder, which all machines must see under the same path. Each try has a folder of its own, so
a case that Dask runs again elsewhere never meets files that its first worker may still be writing.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import shutil
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from medvit.settings import thread_count
from medvit_batch.cases import CaseJob, Outcome, State
from medvit_batch.errors import BatchError
from medvit_batch.execution.case_runner import input_digest
from medvit_batch.execution.cluster_spec import Cluster, ClusterSpec
from medvit_batch.execution.dask_cluster import started
from medvit_batch.execution.dispatcher import Dispatcher
from medvit_batch.execution.messages import (
    Announced,
    Answer,
    CaseDone,
    CaseEnded,
    FromWorker,
    InputHashed,
    NextCase,
    RunCase,
    StageChanged,
    ToWorker,
    WorkerLost,
    WorkerReady,
)
from medvit_batch.execution.pipe_transport import PipeTransport
from medvit_batch.execution.worker_handle import WorkerLink

if TYPE_CHECKING:
    from distributed import Future

__all__ = ["DaskTransport"]

_NOBODY = 300.0
"""Seconds without any worker after which a run gives up, unless jobs may wait longer in a queue."""

_TICK = 0.5


@dataclass(frozen=True, kw_only=True)
class _TaskSettings:
    """Settings with which a Dask worker runs a case.

    Attributes:
        time_limit: seconds that the case may take once its model is loaded.
        alone: True if the worker process runs and reads nothing beside this case.
        sharers: number of Dask workers on the same machine.
        threads: number of threads for the worker process; None for its share of the machine.
    """

    time_limit: float
    alone: bool
    sharers: int
    threads: int | None = None


@dataclass(frozen=True, kw_only=True)
class _TaskEnded:
    """The result of a task that ran a case.

    Attributes:
        end: end of the case.
        staging: folder that holds its results.
    """

    end: CaseEnded
    staging: str


@dataclass(frozen=True, kw_only=True, eq=False)
class _TaskDone:
    """Notice that a task is done, failed or taken back."""

    future: Future


class _DaskWorker:
    """Link to one Dask worker; with an empty address, to any worker that is free."""

    def __init__(self, transport: DaskTransport, address: str) -> None:
        self.transport, self.address = transport, address
        self.order: RunCase | None = None
        self.future: Future | None = None
        self._next: CaseJob | None = None
        self._running = False

    def send(self, message: ToWorker) -> None:
        """Submit the tasks of a case: one that hashes its images and, if the answer is to go on, one that runs it."""
        if isinstance(message, NextCase):
            self._next = message.job
        elif isinstance(message, RunCase):
            self.order, self._next, self._running = message, None, False
            self.transport.report(self, StageChanged(case=message.job.case, stage="cluster"))
            self.transport.submit(self, input_digest, message.job)
        elif isinstance(message, Answer) and self.order is not None:
            job, self._running = self.order.job, True
            if not message.go_on:
                self.order = None
                self.transport.report(self, CaseDone(case=job.case, outcome=Outcome(state=State.SKIPPED)))
                return
            self.transport.report(self, StageChanged(case=job.case, stage="run"))
            settings = self.transport.task_settings(self.address, self.order.alone)
            self.transport.submit(self, _run_case, job, self._next, settings)

    def is_alive(self) -> bool:
        """Return whether the scheduler knows the worker."""
        return self.address in self.transport.known

    def takes_next(self) -> bool:
        """Return True until the task that runs the case, and announces the next, is submitted."""
        return bool(self.address) and not self._running

    def end(self) -> None:
        """Cancel unfinished tasks; a worker that runs a case ends it by itself."""
        if self.future is not None:
            self.future.cancel()
        self.order = self.future = None
        self.transport.forget(self)


class DaskTransport:
    """The workers of a Dask cluster, as many as there are.

    Args:
        where: the cluster.
        time_limit: seconds that a case may take once its model is loaded.

    Raises:
        BatchError: a package is missing, or the cluster does not answer.
    """

    keeps_time_limit = True

    def __init__(self, where: ClusterSpec, time_limit: float) -> None:
        self.cluster: Cluster = started(where)
        self._time_limit = time_limit
        self.known: dict[str, str] = {}
        """Hosts of the workers that the scheduler knows, by address."""
        self._links: list[_DaskWorker] = []
        self._arrived: queue.SimpleQueue[tuple[_DaskWorker, FromWorker | _TaskDone]] = queue.SimpleQueue()
        self._seen = time.monotonic()

    def joined(self) -> list[WorkerLink]:
        """Return new links, for the workers that have none yet.

        Raises:
            BatchError: there was no worker for too long.
        """
        workers = self.cluster.client.scheduler_info(n_workers=-1)["workers"]
        self.known = {address: worker.get("host", "") for address, worker in workers.items()}
        now = time.monotonic()
        if self.known or self.cluster.queued or any(link.order is not None for link in self._links):
            self._seen = now
        elif now - self._seen > _NOBODY:
            address = self.cluster.address
            raise BatchError(
                f"no worker at {address} for {_NOBODY:.0f} s",
                "at least one is needed",
                f"Start dask worker {address} --nthreads 1.",
            )
        linked = {link.address for link in self._links}
        return [self._link(address) for address in self.known if address not in linked]

    def startable(self, workers: int) -> int:
        """Return 0: workers join by themselves."""
        return 0

    def start(self) -> WorkerLink:
        """Return a link to any worker; called if the free workers have left since they were counted."""
        return self._link("")

    def wait(self, seconds: float) -> list[tuple[WorkerLink, FromWorker]]:
        """Return the messages that arrive within that time."""
        found: list[tuple[WorkerLink, FromWorker]] = []
        try:
            link, arrived = self._arrived.get(timeout=seconds)
            while True:
                if not isinstance(arrived, _TaskDone):
                    found.append((link, arrived))
                elif arrived.future is link.future:  # the case was not taken back meanwhile
                    found.append((link, _message(link, arrived.future)))
                link, arrived = self._arrived.get_nowait()
        except queue.Empty:
            return found

    def close(self) -> None:
        """End everything that was started for the run."""
        self.cluster.close()

    def report(self, link: _DaskWorker, message: FromWorker) -> None:
        """Have the next ``wait`` return a message."""
        self._arrived.put((link, message))

    def forget(self, link: _DaskWorker) -> None:
        """Forget a link; its worker, if it still exists, gets a new one."""
        if link in self._links:
            self._links.remove(link)

    def task_settings(self, address: str, alone: bool) -> _TaskSettings:
        """Return the settings with which a worker runs a case."""
        host = self.known.get(address)
        sharers = sum(1 for other in self.known.values() if other == host)
        return _TaskSettings(time_limit=self._time_limit, alone=alone, sharers=max(1, sharers), threads=thread_count())

    def submit(self, link: _DaskWorker, function: Callable[..., object], *arguments: object) -> None:
        """Submit a task for a worker; another worker takes it if that one is lost."""
        link.future = self.cluster.client.submit(
            function,
            *arguments,
            workers=[link.address] if link.address else None,
            allow_other_workers=bool(link.address),
            pure=False,
            key=f"medvit-{uuid.uuid4().hex}",
        )
        link.future.add_done_callback(lambda future: self._arrived.put((link, _TaskDone(future=future))))

    def _link(self, address: str) -> _DaskWorker:
        link = _DaskWorker(self, address)
        self._links.append(link)
        self.report(link, WorkerReady())
        return link


def _message(link: _DaskWorker, future: Future) -> FromWorker:
    """Return the message for a finished task; move the results of a case to the folder that the run expects."""
    assert link.order is not None
    job = link.order.job
    if future.status != "finished":
        why = type(future.exception()).__name__ if future.status == "error" else future.status
        return WorkerLost(detail=f"it was ended by the cluster ({why})")
    found: str | Outcome | _TaskEnded = future.result()
    if isinstance(found, str):
        return InputHashed(case=job.case, digest=found)
    link.order = None
    if isinstance(found, Outcome):
        return CaseDone(case=job.case, outcome=found)
    if found.end.outcome is not None and found.end.outcome.state is State.CHECKED:
        os.replace(found.staging, job.staging)
    return found.end


_BUSY = threading.Lock()
_DISPATCHERS: list[Dispatcher] = []
"""The one dispatcher of a Dask worker, with one worker process; empty until the first case."""


def _run_case(job: CaseJob, ahead: CaseJob | None, settings: _TaskSettings) -> _TaskEnded:
    """Run a case in the process of this Dask worker."""
    staging = job.staging.with_name(f"{job.staging.name}-{uuid.uuid4().hex[:12]}")
    with _BUSY:  # a Dask worker with several threads still runs one case at a time
        dispatcher = _local_dispatcher(settings)
        dispatcher.give(replace(job, staging=staging), alone=settings.alone)
        if ahead is not None and dispatcher.hungry():
            dispatcher.tell(ahead)
        while True:
            for event in dispatcher.wait(_TICK):
                if isinstance(event, InputHashed):
                    dispatcher.answer(event.case, True)
                    continue
                if isinstance(event, Announced):  # for the run's own terminal, which this machine has not
                    continue
                if event.outcome is None or event.outcome.state is not State.CHECKED:
                    shutil.rmtree(staging, ignore_errors=True)
                return _TaskEnded(end=event, staging=str(staging))


def _local_dispatcher(settings: _TaskSettings) -> Dispatcher:
    if not _DISPATCHERS:
        # Dask's nanny starts its workers as daemons, which may have no children; our process ends with its parent by itself
        multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
        threads = settings.threads or thread_count() or _threads(settings.sharers)
        transport = PipeTransport(1, threads=threads, sharers=settings.sharers)
        _DISPATCHERS.append(Dispatcher(transport, settings.time_limit))
    _DISPATCHERS[0].time_limit = settings.time_limit
    return _DISPATCHERS[0]


def _threads(sharers: int) -> int:
    """Return the number of threads for a worker process: those of its Dask worker or, if that has one thread, its share
    of the machine.

    Dask's nanny sets OMP_NUM_THREADS=1, since its worker may run many tasks at a time; ours runs one.
    """
    from distributed import get_worker

    stated = int(get_worker().state.nthreads)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return stated if stated > 1 else max(1, cores // sharers)
