"""A pool whose workers are those of a Dask cluster: the same jobs and events as ``Pool``, on other machines.

Every Dask worker keeps one worker process of ours, with its model, so that a time limit, a crash or too little memory costs a
case there as it does here; that process also reads the next case while it runs one. Before a case is run its images are hashed there,
and this side decides whether it must be. Results are written aside below the batch's folder, which all machines must see under one
path, under a name of their own for each try: a case that Dask runs again elsewhere never meets what its first worker may still be
writing.
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
from typing import Any

from medvit_batch.cases import CaseJob, Outcome, State
from medvit_batch.errors import BatchError
from medvit_batch.execution.case_runner import input_digest
from medvit_batch.execution.cluster_spec import Cluster, ClusterSpec
from medvit_batch.execution.dask_cluster import started
from medvit_batch.execution.worker_pool import Event, EventKind, Pool

__all__ = ["ClusterPool"]

_NOBODY = 300.0
"""Seconds without any worker after which a run gives up; not where jobs may wait in a queue for longer."""

_TICK = 0.5
_BUSY = threading.Lock()
_POOLS: list[Pool] = []
"""On a Dask worker: its one pool, of one process."""


@dataclass(eq=False)
class _There:
    """A case on the cluster; stands where a worker does in the events of ``Pool``."""

    job: CaseJob
    address: str
    answered: Callable[[_There, bool], None]
    alone: bool
    stage: str = "cluster"
    future: Any = None
    ahead: CaseJob | None = None

    def answer(self, go_on: bool) -> None:
        """Run the case, or leave it."""
        self.answered(self, go_on)

    def hungry(self) -> bool:
        """Whether its worker could be told what comes next."""
        return bool(self.address) and not self.alone and self.ahead is None and self.stage == "cluster"


class ClusterPool:
    """As many cases at a time as the cluster has workers.

    Args:
        where: the cluster.
        time_limit: seconds that a case may take once its model is loaded.

    Raises:
        BatchError: what is needed is not installed, or nobody answers.
    """

    def __init__(self, where: ClusterSpec, time_limit: float) -> None:
        self.cluster: Cluster = started(where)
        self.client, self.time_limit = self.cluster.client, time_limit
        self.there: list[_There] = []
        self._ahead: dict[str, CaseJob] = {}  # by address, once its worker has been told
        self._heard: queue.SimpleQueue[tuple[_There, str, Any]] = queue.SimpleQueue()
        self._seen = time.monotonic()

    def idle(self) -> int:
        """How many more jobs could be given."""
        return len(self._free())

    def _workers(self) -> dict[str, Any]:
        known: dict[str, Any] = self.client.scheduler_info(n_workers=-1)["workers"]
        return known

    def _free(self) -> list[str]:
        known = list(self._workers())
        now = time.monotonic()
        if known or self.there or self.cluster.queued:
            self._seen = now
        elif now - self._seen > _NOBODY:
            address = self.cluster.address
            raise BatchError(
                f"Found no worker at {address} for {_NOBODY:.0f} s; at least one is needed. Start dask worker {address} --nthreads 1."
            )
        taken = {item.address for item in self.there}
        return [address for address in known if address not in taken]

    def busy(self) -> int:
        """How many jobs are being worked on."""
        return len(self.there)

    def hungry(self) -> int:
        """How many workers could be told what comes next."""
        return sum(1 for item in self.there if item.hungry())

    def ahead(self) -> dict[int, bool]:
        """Numbers of the cases that workers were told come next, and whether their worker is free now."""
        free = set(self._free())
        told = {item.ahead.case: False for item in self.there if item.ahead is not None}
        return told | {job.case: address in free for address, job in self._ahead.items()}

    def tell(self, job: CaseJob) -> None:
        """Tell a worker what comes next; it hears of it together with the case before."""
        next(item for item in self.there if item.hungry()).ahead = job

    def give(self, job: CaseJob, alone: bool = False) -> None:
        """Have a worker look at a case; the one that has read it already, if that is free."""
        known = self._workers()
        self._ahead = {address: kept for address, kept in self._ahead.items() if address in known}
        had = next((address for address, kept in self._ahead.items() if kept.case == job.case), "")
        free = sorted(self._free(), key=lambda address: (address != had, address in self._ahead))
        address = next(iter(free), "")  # its worker may be gone since it was counted: then anyone's
        for name in (had, address):
            self._ahead.pop(name, None)
        for other in self.there:
            if other.ahead is not None and other.ahead.case == job.case:
                other.ahead = None
        item = _There(job, address, self._run, alone)
        self.there.append(item)
        self._submit(item, EventKind.INPUT, _digest, job)

    def _run(self, item: _There, go_on: bool) -> None:
        item.stage = "run"
        ahead, item.ahead = item.ahead, None
        if not go_on:
            self._heard.put((item, EventKind.SKIPPED, None))
            return
        if ahead is not None:
            self._ahead[item.address] = ahead
        workers = self._workers()
        host = workers.get(item.address, {}).get("host")
        sharers = sum(1 for worker in workers.values() if worker.get("host") == host)
        self._submit(item, EventKind.DONE, _case, item.job, ahead, _How(self.time_limit, item.alone, max(1, sharers)))

    def _submit(self, item: _There, what: EventKind, function: Callable[..., Any], *arguments: Any) -> None:
        item.future = self.client.submit(
            function,
            *arguments,
            workers=[item.address] if item.address else None,
            allow_other_workers=bool(item.address),
            pure=False,
            key=f"medvit-{uuid.uuid4().hex}",
        )
        item.future.add_done_callback(lambda future: self._heard.put((item, what, future)))

    def wait(self, seconds: float) -> list[Event]:
        """What happens within that time; returns as soon as something did."""
        try:
            item, what, future = self._heard.get(timeout=max(seconds, 0.0))
        except queue.Empty:
            return []
        if item not in self.there:  # it was stopped meanwhile
            return []
        if what is EventKind.SKIPPED:
            self.there.remove(item)
            return [Event(EventKind.DONE, item.job, Outcome(State.SKIPPED), item)]
        if future.status != "finished":
            self.there.remove(item)
            why = type(future.exception()).__name__ if future.status == "error" else future.status
            return [Event(EventKind.CRASHED, item.job, f"it was ended by the cluster ({why})", item)]
        found = future.result()
        if what is EventKind.INPUT and isinstance(found, str):
            return [Event(EventKind.INPUT, item.job, found, item)]
        self.there.remove(item)
        kind, content, place, beside = (EventKind.DONE, found, "", frozenset()) if what is EventKind.INPUT else found
        if kind is EventKind.DONE and content.state is State.CHECKED:
            os.replace(place, item.job.staging)
        return [Event(kind, item.job, content, item, beside)]

    def stop(self) -> list[CaseJob]:
        """Take back what is not finished; return those jobs. A worker that is at one of them ends it by itself."""
        left = [item.job for item in self.there]
        for item in self.there:
            item.future.cancel()
        self.there.clear()
        self.cluster.close()
        return left


def _digest(job: CaseJob) -> str | Outcome:
    """On a worker: the hash of a case's images, or why there is none."""
    return input_digest(job)


@dataclass(frozen=True)
class _How:
    """How a case is run on a worker.

    Attributes:
        time_limit: seconds that it may take once its model is loaded.
        alone: whether nothing is done beside it.
        sharers: Dask workers on its machine.
    """

    time_limit: float
    alone: bool
    sharers: int


def _case(job: CaseJob, ahead: CaseJob | None, how: _How) -> tuple[EventKind, Any, str, frozenset[int]]:
    """On a worker: run a case in its process; what, content and beside of the last event, and the folder that was written."""
    place = job.staging.with_name(f"{job.staging.name}-{uuid.uuid4().hex[:12]}")
    with _BUSY:  # a worker with several threads runs one case at a time all the same
        pool = _pool(how)
        pool.give(replace(job, staging=place), how.alone)
        if ahead is not None and pool.hungry():
            pool.tell(ahead)
        while True:
            for event in pool.wait(_TICK):
                if event.what is EventKind.INPUT:
                    event.worker.answer(True)
                elif event.what is not EventKind.STAGE:
                    if event.what is not EventKind.DONE or event.content.state is not State.CHECKED:
                        shutil.rmtree(place, ignore_errors=True)
                    return event.what, event.content, str(place), event.concurrent_cases


def _pool(how: _How) -> Pool:
    if not _POOLS:
        # Dask's nanny makes its workers daemons, which may have no children; ours ends with its parent by itself
        multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
        _POOLS.append(Pool(1, how.time_limit, _threads(how.sharers), sharers=how.sharers))
    _POOLS[0].time_limit = how.time_limit
    return _POOLS[0]


def _threads(sharers: int) -> int:
    """Threads for a worker's process: those its Dask worker was given or, of one with a single thread, its part of the machine.

    Dask's nanny sets OMP_NUM_THREADS=1 for its worker, since that may run many tasks at a time; ours runs one.
    """
    from distributed import get_worker

    stated = int(get_worker().state.nthreads)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return stated if stated > 1 else max(1, cores // sharers)
