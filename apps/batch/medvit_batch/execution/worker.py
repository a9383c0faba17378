"""A worker: a process that keeps its models loaded and runs one case after the other.

Beside the case that it runs, a thread may read the next one and another may write the one before. It writes only below the folder
it is given; what is published, and everything in the journal, is its parent's matter.
"""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from medvit_batch.cases import CaseJob, Outcome
from medvit_batch.execution.prefetch import Ahead, Reading, room
from medvit_batch.parent_watch import follow_parent

__all__ = ["CaseChannel", "Runner", "serve"]

_FIRST_TO_GO = "700"
"""Of 1000: when memory runs out the system shall end a worker, which costs a case, rather than its parent."""


Finish = Callable[[bool], Outcome]
"""The last steps of a case; told whether they are done beside another case."""


def _at_once(size: int, finish: Finish) -> Outcome | None:
    return finish(False)


@dataclass
class CaseChannel:
    """What a worker says to its parent while it is at work on a case, and what lies ready for the case.

    Attributes:
        say: sends a pair (what, content).
        ask: sends an input's hash and waits to be told whether to go on.
        reading: the case's images, where they were read ahead.
        go: called once the case has its images, and the next one's may be read.
        settle: waits until the case before is written.
        finish: given the bytes that the case holds and its last steps, has those done: at once, giving what came of it, or beside
            the next case, giving None.
        alone: whether nothing is done beside it.
        stage: the stage it is in.
    """

    say: Callable[[str, Any], None]
    ask: Callable[[str], bool]
    reading: Reading | None = None
    go: Callable[[], None] = lambda: None
    settle: Callable[[], None] = lambda: None
    finish: Callable[[int, Finish], Outcome | None] = _at_once
    alone: bool = False
    stage: str = ""

    def show(self, stage: str, done: int, total: int) -> None:
        """As ``Progress`` calls it: the parent hears of each new stage."""
        if stage != self.stage:
            self.stage = stage
            self.say("stage", stage)


Runner = Callable[[CaseJob, CaseChannel], Outcome | None]
"""Runs a case; None where its outcome follows later."""


class WorkerEndpoint:
    """A worker's end of the line to its parent.

    A thread of its own listens, so that the parent can say what comes next while a case is at work.

    Args:
        connection: to the parent.
        workers: how many share this machine's memory.
        behind: whether a case may be written beside the next.
    """

    def __init__(self, connection: Connection, workers: int, behind: bool) -> None:
        self._connection, self._workers, self._behind = connection, workers, behind
        self._speaking = threading.Lock()
        self._answers: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._writing: threading.Thread | None = None
        self.jobs: queue.SimpleQueue[tuple[CaseJob, bool, Reading | None] | None] = queue.SimpleQueue()
        self.ahead = Ahead(lambda what, case: self.say(what, case), workers)

    def listen(self) -> None:
        """Take what the parent says, until it is gone."""
        with contextlib.suppress(EOFError, OSError):
            while True:
                what, content = self._connection.recv()
                if what == "job":
                    job, alone = content
                    self.jobs.put((job, alone, self.ahead.take(job)))
                elif what == "next":
                    self.ahead.tell(content)
                else:
                    self._answers.put(content)
        self._answers.put(False)
        self.jobs.put(None)

    def say(self, what: str, case: int, content: Any = None) -> None:
        """Tell the parent something about a case."""
        with self._speaking:
            self._connection.send((what, case, content))

    def link(self, job: CaseJob, alone: bool, reading: Reading | None) -> CaseChannel:
        """What a case is run with.

        Args:
            job: the case.
            alone: whether nothing is to be done beside it.
            reading: its images, where they were read ahead.
        """

        def say(what: str, content: Any) -> None:
            self.say(what, job.case, content)

        def ask(digest: str) -> bool:
            say("input", digest)
            return self._answers.get()

        if alone:
            self.ahead.settle()
            self.settle()
            return CaseChannel(say, ask, reading, alone=True)
        return CaseChannel(
            say, ask, reading, self.ahead.go, self.settle, lambda size, finish: self._finish(job, size, finish)
        )

    def settle(self) -> None:
        """Wait until the case before is written."""
        if self._writing is not None:
            self._writing.join()

    def _finish(self, job: CaseJob, size: int, finish: Finish) -> Outcome | None:
        if not self._behind or size > room(self._workers):
            return finish(False)

        def write() -> None:
            outcome = finish(True)
            with contextlib.suppress(OSError):  # the parent is gone, and this process with it
                self.say("done", job.case, outcome)

        self.say("free", job.case)
        self._writing = threading.Thread(target=write, name="medvit-last-case", daemon=True)
        self._writing.start()
        return None


def serve(connection: Connection, run: Runner, threads: int, workers: int = 1, behind: bool = True) -> None:
    """The life of a worker process.

    Args:
        connection: to the parent. Gets ("job", (job, whether nothing may be done beside it)), ("next", job) and ("answer", whether to
            go on); gives (what, number of the case, content).
        run: runs a case.
        threads: that torch may use.
        workers: how many there are on this machine.
        behind: whether a case may be written beside the next.
    """
    follow_parent()
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text(_FIRST_TO_GO)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = str(threads)
    # they may quote headers; and what one thread silences for a while, another would make loud again
    warnings.simplefilter("ignore")
    desk = WorkerEndpoint(connection, workers, behind)
    threading.Thread(target=desk.listen, name="medvit-listener", daemon=True).start()
    with contextlib.suppress(OSError):
        desk.say("ready", 0, os.getpid())
        while (given := desk.jobs.get()) is not None:
            outcome = run(given[0], desk.link(*given))
            if outcome is not None:
                desk.say("done", given[0].case, outcome)
                if outcome.fatal:
                    return
        desk.settle()
