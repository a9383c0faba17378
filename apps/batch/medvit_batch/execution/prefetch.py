"""Prefetch of the next case: while one case runs, a thread of the worker hashes the next one's files and decodes its
images.

The images read ahead are used only if no error occurred. After an error, the case is read again in its own turn, so
that stage, reason and remedy are the same as without prefetch.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING

from medvit.progress import Progress
from medvit_batch.cases import CaseJob
from medvit_batch.catalogue.series_groups import Group
from medvit_batch.execution.case_input import Opened, open_case, read_case
from medvit_batch.execution.messages import PrefetchMessage, ReadingEnded, ReadingStarted

if TYPE_CHECKING:
    from medvit.io import Scan

__all__ = ["Ahead", "Reading", "room", "size_of"]

_MOST = 1 << 30
"""Bytes of memory that a prefetched case may take."""

_SHARE = 4
"""Divisor of the free memory: a prefetched case may take the free memory divided by this and by the number of workers."""

_FLOAT = 4


def room(workers: int) -> int:
    """Return the number of bytes that each worker may use now for a prefetched case."""
    return min(_MOST, _free() // (_SHARE * max(1, workers)))


def size_of(job: CaseJob) -> int | None:
    """Return the most bytes that reading a series takes, by its headers; None for image files, whose size is not known
    before.
    """
    if job.group is None:
        return None
    planes = job.group.planes
    values = sum(plane.rows * plane.columns * max(1, plane.samples) for plane in planes) * _FLOAT
    copies = 3 if job.work.run.on_irregular == "resample" else 1  # the slices, and the grid that they are resampled to
    return values * copies + 2 * max((plane.file.size for plane in planes), default=0)


def _free() -> int:
    """Return the bytes of available memory: of the machine or, if less, of the container."""
    found = [_MOST * _SHARE]
    with contextlib.suppress(OSError, AttributeError, ValueError):
        stated = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.M)
        assert stated is not None
        found = [int(stated[1]) << 10]
    with contextlib.suppress(OSError, ValueError):  # "max" if there is no limit
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        cached = re.search(r"^inactive_file (\d+)$", (group / "memory.stat").read_text(), re.M)
        found.append(limit - used + (int(cached[1]) if cached else 0))
    return max(0, min(found))


class Reading:
    """A case that is being read ahead, or has been.

    Attributes:
        job: the case.
        progress: progress of the reading, with its seconds.
    """

    def __init__(self, job: CaseJob) -> None:
        self.job, self.progress = job, Progress()
        self._opened: Future[Opened | None] = Future()
        self._scan: Future[Scan | None] = Future()

    def opened(self) -> Opened | None:
        """Wait for the opened case and return it; None if opening failed."""
        return self._opened.result()

    def scan(self) -> Scan | None:
        """Wait for the decoded images and return them, without keeping a reference; None if reading failed."""
        found, self._scan = self._scan.result(), Future()
        return found

    @property
    def seconds(self) -> float:
        """Seconds that the reading took, or has taken so far."""
        return sum(value for name, value in self.progress.seconds.items() if name in ("open", "read"))

    def run(self) -> None:
        """Open and decode the case. Errors are dropped: the case runner meets them again and reports them."""
        opened, scan = None, None
        with contextlib.suppress(Exception):
            with self.progress.stage("open"):
                opened = open_case(self.job)
            self._opened.set_result(opened)
            with self.progress.stage("read"):
                scan = read_case(self.job, opened, self.progress)
        if not self._opened.done():
            self._opened.set_result(None)
        self._scan.set_result(scan)

    def fits(self, job: CaseJob) -> bool:
        """Return True if the images are those that a job needs: the same files, read in the same way."""
        ours = self.job
        stamps = [g.file_signature if g is not None else None for g in (ours.group, job.group)]
        return stamps[0] == stamps[1] and (ours.key, ours.bundle, ours.work) == (job.key, job.bundle, job.work)


class Ahead:
    """Prefetch of at most one case while a worker runs another.

    Args:
        send: sends a message when reading of a case begins and when it ends, so that the dispatcher knows which case
            may have caused a crash.
        workers: number of workers that share this machine's memory.
    """

    def __init__(self, send: Callable[[PrefetchMessage], None], workers: int) -> None:
        self._send, self._workers = send, workers
        self._lock = threading.Lock()
        self._next: CaseJob | None = None
        self._reading: Reading | None = None
        self._thread: threading.Thread | None = None
        self._may = False

    def tell(self, job: CaseJob | None) -> None:
        """Set the next case; None if there is none, or another worker has it."""
        with self._lock:
            self._drop()
            self._next = job
            self._begin()

    def take(self, job: CaseJob) -> Reading | None:
        """Return the reading of a case whose turn it is, or None; drop any other. Reading pauses until ``go``."""
        with self._lock:
            self._may, reading = False, self._reading
            if reading is None or not reading.fits(job):
                self._drop()
                reading = None
            self._reading = self._next = None
            return reading

    def go(self) -> None:
        """Allow reading again: the running case has its images."""
        with self._lock:
            self._may = True
            self._begin()

    def settle(self) -> None:
        """Wait until nothing is being read."""
        if self._thread is not None:
            self._thread.join()

    def _drop(self) -> None:
        if self._reading is not None:
            self._reading.progress.cancel()
        self._reading = self._next = None

    def _begin(self) -> None:
        job = self._next
        if not self._may or job is None or self._reading is not None:
            return
        size = size_of(job)
        if size is None or size > room(self._workers):
            _soon(job.group)
            return
        self._reading = Reading(job)
        self._thread = threading.Thread(
            target=self._run, args=(self._reading, self._thread), name="medvit-next-case", daemon=True
        )
        self._thread.start()

    def _run(self, reading: Reading, before: threading.Thread | None) -> None:
        if before is not None:  # one at a time; a dropped reading stops at its next slice
            before.join()
        with contextlib.suppress(OSError):  # the parent has ended, and this process ends with it
            self._send(ReadingStarted(case=reading.job.case))
        reading.run()
        with contextlib.suppress(OSError):
            self._send(ReadingEnded(case=reading.job.case))


def _soon(group: Group | None) -> None:
    """Advise the system that the files of a series are read soon, so that it can read them when the disk is idle."""
    if group is None or group.inside or not hasattr(os, "posix_fadvise"):
        return
    left = _MOST
    for file in {plane.file.name: plane.file for plane in group.planes}.values():
        left -= file.size
        if left < 0:
            return
        with contextlib.suppress(Exception), file.open() as stream:  # an error is reported when the case is read
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)
