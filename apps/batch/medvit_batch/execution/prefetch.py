"""The next case is read while this one runs: a thread of the worker hashes its files and decodes its images.

What it finds is used only where all went well. Whatever goes wrong ahead is forgotten, and the case is read again in its own turn,
so that stage, reason and remedy are those of a case that nobody read ahead.
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
"""Bytes that a case beside the one that runs may take."""

_SHARE = 4
"""What one worker holds beside the case it runs stays below the free memory divided by this and by the number of workers."""

_FLOAT = 4


def room(workers: int) -> int:
    """Bytes that each of so many workers may take now for a case beside the one it runs."""
    return min(_MOST, _free() // (_SHARE * max(1, workers)))


def size_of(job: CaseJob) -> int | None:
    """Bytes that reading a series takes at most, as its headers have it; None for image files, which do not say beforehand."""
    if job.group is None:
        return None
    planes = job.group.planes
    values = sum(plane.rows * plane.columns * max(1, plane.samples) for plane in planes) * _FLOAT
    copies = 3 if job.work.run.on_irregular == "resample" else 1  # the slices, and the grid that they are brought onto
    return values * copies + 2 * max((plane.file.size for plane in planes), default=0)


def _free() -> int:
    """Bytes of memory that can be had: of the machine or, where that is less, of the container."""
    found = [_MOST * _SHARE]
    with contextlib.suppress(OSError, AttributeError, ValueError):
        stated = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.M)
        assert stated is not None
        found = [int(stated[1]) << 10]
    with contextlib.suppress(OSError, ValueError):  # "max" where there is no limit
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        cached = re.search(r"^inactive_file (\d+)$", (group / "memory.stat").read_text(), re.M)
        found.append(limit - used + (int(cached[1]) if cached else 0))
    return max(0, min(found))


class Reading:
    """A case that is being read, or has been.

    Attributes:
        job: which.
        progress: how far it is, with the seconds that it took.
    """

    def __init__(self, job: CaseJob) -> None:
        self.job, self.progress = job, Progress()
        self._opened: Future[Opened | None] = Future()
        self._scan: Future[Scan | None] = Future()

    def opened(self) -> Opened | None:
        """What the case is; waits for it. None if that failed."""
        return self._opened.result()

    def scan(self) -> Scan | None:
        """Its images; waits for them. None if that failed. They are handed over and not kept."""
        found, self._scan = self._scan.result(), Future()
        return found

    @property
    def seconds(self) -> float:
        """How long it took, or has taken."""
        return sum(value for name, value in self.progress.seconds.items() if name in ("open", "read"))

    def run(self) -> None:
        """Read; nothing is raised, since whoever runs the case finds the same and says it."""
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
        """Whether what was read is what a job needs: the same files, read in the same way."""
        ours = self.job
        stamps = [g.file_signature if g is not None else None for g in (ours.group, job.group)]
        return stamps[0] == stamps[1] and (ours.key, ours.bundle, ours.work) == (job.key, job.bundle, job.work)


class Ahead:
    """What a worker reads beside the case it runs: one case at most.

    Args:
        send: sends a message when it begins with a case and when it is done, so that the dispatcher knows which case may be the
            reason for a crash.
        workers: how many share this machine's memory.
    """

    def __init__(self, send: Callable[[PrefetchMessage], None], workers: int) -> None:
        self._send, self._workers = send, workers
        self._lock = threading.Lock()
        self._next: CaseJob | None = None
        self._reading: Reading | None = None
        self._thread: threading.Thread | None = None
        self._may = False

    def tell(self, job: CaseJob | None) -> None:
        """Which case comes next; None where there is none, or another worker has it."""
        with self._lock:
            self._drop()
            self._next = job
            self._begin()

    def take(self, job: CaseJob) -> Reading | None:
        """What was read of a case whose turn it is; anything else is dropped. Nothing more is read until ``go``."""
        with self._lock:
            self._may, reading = False, self._reading
            if reading is None or not reading.fits(job):
                self._drop()
                reading = None
            self._reading = self._next = None
            return reading

    def go(self) -> None:
        """The case at work has its images: the next one's may be read beside it."""
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
        if before is not None:  # one at a time: what was dropped stops at its next slice
            before.join()
        with contextlib.suppress(OSError):  # the parent is gone, and this process with it
            self._send(ReadingStarted(case=reading.job.case))
        reading.run()
        with contextlib.suppress(OSError):
            self._send(ReadingEnded(case=reading.job.case))


def _soon(group: Group | None) -> None:
    """Tell the system that the files of a series are read soon; it reads them when the disk has time, or not at all."""
    if group is None or group.inside or not hasattr(os, "posix_fadvise"):
        return
    left = _MOST
    for file in {plane.file.name: plane.file for plane in group.planes}.values():
        left -= file.size
        if left < 0:
            return
        with contextlib.suppress(Exception), file.open() as stream:  # whoever reads it then says what is wrong with it
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)
