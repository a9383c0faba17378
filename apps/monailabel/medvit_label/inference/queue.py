"""Queue of inferences: one runs at a time, a limited number waits; each has progress and can be cancelled."""

from __future__ import annotations

import copy
import logging
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from medvit.progress import Progress
from medvit_label.errors import BusyError, UnknownError

__all__ = ["Job", "JobQueue"]

_log = logging.getLogger("medvit_label")

T = TypeVar("T")
_REMEMBERED = 200
"""Number of ended jobs that can still be looked up."""


@dataclass(kw_only=True, eq=False)
class Job(Generic[T]):
    """An inference in the queue, with its state.

    Attributes:
        model: name of the model.
        image: id of the image.
        owner: annotator who requested it: an account's name or a ``client_id``.
        state: "waiting", "running", "done", "failed" or "cancelled".
        stage, done, total: progress as ``Progress`` reports it.
    """

    model: str
    image: str
    owner: str = ""
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    state: str = "waiting"
    stage: str = ""
    done: int = 0
    total: int = 0
    created: float = field(default_factory=time.time)
    started: float | None = None
    ended: float | None = None
    reason: str = ""
    progress: Progress = field(init=False, repr=False)
    future: Future[T] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.progress = Progress(self._show, self._announce)

    def _show(self, stage: str, done: int, total: int) -> None:
        self.stage, self.done, self.total = stage, done, total

    def _announce(self, text: str) -> None:
        _log.info("inference %s by %s: %s", self.id[:8], self.model, text)

    def without_result(self) -> Job[T]:
        """Return a copy of an ended job without its result, which may be hundreds of megabytes."""
        kept = copy.copy(self)
        kept.progress = Progress()  # the job's own Progress refers back to the job
        del kept.future
        return kept

    def summary(self) -> dict[str, Any]:
        """Return the job in the form that clients get."""
        keys = ("id", "model", "image", "state", "stage", "done", "total", "created", "started", "ended", "reason")
        return {key: getattr(self, key) for key in keys}


class JobQueue:
    """A queue of jobs with one worker.

    Args:
        limit: upper limit of jobs that wait or run.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pool = ThreadPoolExecutor(1, "inference")
        self._lock = threading.Lock()
        self._jobs: OrderedDict[str, Job[Any]] = OrderedDict()

    def submit(self, work: Callable[[Progress], T], model: str, image: str, owner: str = "") -> Job[T]:
        """Append work to the queue.

        Raises:
            BusyError: the queue is full.
        """
        job: Job[T] = Job(model=model, image=image, owner=owner)
        with self._lock:
            open_jobs = sum(other.ended is None for other in self._jobs.values())
            if open_jobs >= self._limit:
                raise BusyError(
                    f"{open_jobs} waiting inferences, which is the limit",
                    "the server runs one at a time",
                    "Ask again in a minute.",
                )
            self._jobs[job.id] = job
            ended = [key for key, other in self._jobs.items() if other.ended is not None]
            for key in ended[: max(0, len(ended) - _REMEMBERED)]:
                del self._jobs[key]
            job.future = self._pool.submit(self._run, job, work)
        return job

    def _run(self, job: Job[T], work: Callable[[Progress], T]) -> T:
        from medvit.progress import Cancelled

        try:
            job.progress.check()
            job.state, job.started = "running", time.time()
            made = work(job.progress)
        except Cancelled:
            job.state, job.reason = "cancelled", "Cancelled."
            raise
        except BaseException as error:
            # the message may name a path or a patient; the client that asked gets it, lists show only its type
            job.state, job.reason = "failed", type(error).__name__
            raise
        else:
            job.state = "done"
            return made
        finally:
            job.ended = time.time()
            with self._lock:
                self._jobs[job.id] = job.without_result()

    def find(self, name: str) -> Job[Any]:
        """Return the job of an id.

        Raises:
            UnknownError: there is no such job, or it ended long ago.
        """
        with self._lock:
            job = self._jobs.get(name)
        if job is None:
            raise UnknownError(f"no job {name[:40]!r}", "ask for one that is listed", "See GET /queue/.")
        return job

    def cancel(self, name: str) -> Job[Any]:
        """Cancel a job: before it starts, or at the next window of the running inference."""
        job = self.find(name)
        job.progress.cancel()
        return job

    def listing(self) -> list[dict[str, Any]]:
        """Return all remembered jobs in the form that clients get, oldest first."""
        with self._lock:
            return [job.summary() for job in self._jobs.values()]

    def close(self) -> None:
        """Cancel all jobs and wait until the running one has ended."""
        with self._lock:
            for job in self._jobs.values():
                job.progress.cancel()
        self._pool.shutdown(wait=True, cancel_futures=True)
