"""Worker process: keeps its models loaded and runs one case after the other.

While a case runs, one thread may read the next case and another may write the previous one. A worker writes only below
the folder of its job; its parent publishes results and writes the journal.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import sys
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from medvit_batch.cases import CaseJob, Outcome
from medvit_batch.execution.fork_server import THREAD_VARIABLES
from medvit_batch.execution.messages import (
    Announced,
    Answer,
    CaseDone,
    CaseReleased,
    CaseStarted,
    FromWorker,
    InputHashed,
    NextCase,
    RunCase,
    StageChanged,
    ToWorker,
    WorkerReady,
)
from medvit_batch.execution.prefetch import Ahead, Reading, room
from medvit_batch.parent_watch import follow_parent

__all__ = ["CaseChannel", "Runner", "WorkerSettings", "serve"]

_FIRST_TO_GO = "700"
"""Value for Linux's oom_score_adj (up to 1000): if memory runs out, the system should kill a worker rather than its
parent.
"""


Finish = Callable[[bool], Outcome]
"""Function that writes the results of a case; its argument is True if it runs while the next case does."""


def _at_once(size: int, finish: Finish) -> Outcome | None:
    return finish(False)


def _go_on(digest: str) -> bool:
    return True


@dataclass(kw_only=True)
class CaseChannel:
    """Channel between a case and its worker: messages to the dispatcher, and the images that were read ahead.

    Attributes:
        case: number of the case.
        send: sends a message.
        ask: sends the hash of the case's images; returns whether the case must be run.
        reading: the case's images, if they were read ahead.
        go: called once the case has its images, so that the next case's may be read.
        settle: waits until the previous case is written.
        finish: takes the bytes that the case holds and the function that writes its results. Runs the function at once
            and returns its outcome, or runs it in the background and returns None.
        alone: True if the worker does nothing else meanwhile.
        stage: current stage of the case.
    """

    case: int
    send: Callable[[FromWorker], None] = lambda message: None
    ask: Callable[[str], bool] = _go_on
    reading: Reading | None = None
    go: Callable[[], None] = lambda: None
    settle: Callable[[], None] = lambda: None
    finish: Callable[[int, Finish], Outcome | None] = _at_once
    alone: bool = False
    stage: str = ""

    def started(self) -> None:
        """Report that the model is loaded."""
        self.send(CaseStarted(case=self.case))

    def show(self, stage: str, done: int, total: int) -> None:
        """Report each new stage; a callback of ``Progress``."""
        if stage != self.stage:
            self.stage = stage
            self.send(StageChanged(case=self.case, stage=stage))

    def announce(self, text: str) -> None:
        """Pass a line for the user on; a callback of ``Progress``."""
        self.send(Announced(case=self.case, text=text))


Runner = Callable[[CaseJob, CaseChannel], Outcome | None]
"""Function that runs a case; it returns None if the outcome follows later."""


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """Settings of a worker process.

    Attributes:
        threads: threads that torch may use.
        environment: environment variables of the process that started it.
        workers: number of workers that share this machine's memory.
        writes_behind: True if the results of a case may be written while the next case runs.
    """

    threads: int
    environment: Mapping[str, str]
    workers: int = 1
    writes_behind: bool = True


class WorkerEndpoint:
    """End of the pipe in the worker.

    A separate thread receives messages, so that the next case can be announced while a case runs.

    Args:
        connection: pipe to the dispatcher.
        settings: settings of the worker.
    """

    def __init__(self, connection: Connection, settings: WorkerSettings) -> None:
        self._connection, self._settings = connection, settings
        self._sending = threading.Lock()
        self._answers: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._writing: threading.Thread | None = None
        self.orders: queue.SimpleQueue[tuple[RunCase, Reading | None] | None] = queue.SimpleQueue()
        self.ahead = Ahead(self.send, settings.workers)

    def listen(self) -> None:
        """Receive messages until the dispatcher has ended."""
        with contextlib.suppress(EOFError, OSError):
            while True:
                message: ToWorker = self._connection.recv()
                match message:
                    case RunCase():
                        self.orders.put((message, self.ahead.take(message.job)))
                    case NextCase():
                        self.ahead.tell(message.job)
                    case Answer():
                        self._answers.put(message.go_on)
        self._answers.put(False)
        self.orders.put(None)

    def send(self, message: FromWorker) -> None:
        """Send a message to the dispatcher."""
        with self._sending:
            self._connection.send(message)

    def channel(self, order: RunCase, reading: Reading | None) -> CaseChannel:
        """Return the channel of a case.

        Args:
            order: the case, and whether it is run alone.
            reading: the case's images, if they were read ahead.
        """
        case = order.job.case

        def ask(digest: str) -> bool:
            self.send(InputHashed(case=case, digest=digest))
            return self._answers.get()

        if order.alone:
            self.ahead.settle()
            self.settle()
            return CaseChannel(case=case, send=self.send, ask=ask, reading=reading, alone=True)
        return CaseChannel(
            case=case,
            send=self.send,
            ask=ask,
            reading=reading,
            go=self.ahead.go,
            settle=self.settle,
            finish=lambda size, finish: self._finish(case, size, finish),
        )

    def settle(self) -> None:
        """Wait until the previous case is written."""
        if self._writing is not None:
            self._writing.join()

    def _finish(self, case: int, size: int, finish: Finish) -> Outcome | None:
        if not self._settings.writes_behind or size > room(self._settings.workers):
            return finish(False)

        def write() -> None:
            outcome = finish(True)
            with contextlib.suppress(OSError):  # the parent has ended, and this process ends with it
                self.send(CaseDone(case=case, outcome=outcome))

        self.send(CaseReleased(case=case))
        self._writing = threading.Thread(target=write, name="medvit-last-case", daemon=True)
        self._writing.start()
        return None


def serve(connection: Connection, run: Runner, settings: WorkerSettings) -> None:
    """Run cases as they are ordered; the main function of a worker process.

    Args:
        connection: pipe to the dispatcher; receives ``ToWorker`` and sends ``FromWorker`` messages.
        run: function that runs a case.
        settings: settings of the worker.
    """
    follow_parent()
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text(_FIRST_TO_GO)
    os.environ.clear()  # a forked worker starts with the environment of the fork server
    os.environ.update({**settings.environment, **dict.fromkeys(THREAD_VARIABLES, str(settings.threads))})
    # with "spawn", libraries create no locks between processes, as numba would in a forked process
    multiprocessing.set_start_method("spawn", force=True)
    # warnings may quote headers; a filter in one thread would be undone by another, so this one is for the whole process
    warnings.simplefilter("ignore")
    endpoint = WorkerEndpoint(connection, settings)
    threading.Thread(target=endpoint.listen, name="medvit-listener", daemon=True).start()
    with contextlib.suppress(OSError):
        endpoint.send(WorkerReady())
        while (given := endpoint.orders.get()) is not None:
            order, reading = given
            outcome = run(order.job, endpoint.channel(order, reading))
            if outcome is not None:
                endpoint.send(CaseDone(case=order.job.case, outcome=outcome))
                if outcome.fatal:
                    return
        endpoint.settle()
