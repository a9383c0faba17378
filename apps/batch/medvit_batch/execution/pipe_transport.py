"""Transport to worker processes on this machine, each reached by a pipe."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import threading
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from medvit.settings import wait_passively
from medvit_batch.execution.case_runner import run_case
from medvit_batch.execution.fork_server import start_process
from medvit_batch.execution.messages import FromWorker, ToWorker, WorkerLost
from medvit_batch.execution.worker import Runner, WorkerSettings, serve
from medvit_batch.execution.worker_handle import WorkerLink

__all__ = ["PipeTransport"]

_LAST_STEPS = 10.0
"""Seconds that a worker may take to end after it has closed its pipe."""

_SERVER_LOST = 255
"""Exit code that multiprocessing reports for a worker whose fork server has ended."""


class _Process:
    """A worker process and its pipe.

    A separate thread sends messages, so that the caller never waits for a worker that is too busy to receive.
    """

    def __init__(self, process: BaseProcess, connection: Connection) -> None:
        self.process, self.connection, self.ended = process, connection, False
        self._messages: queue.SimpleQueue[ToWorker | None] = queue.SimpleQueue()
        self._sender = threading.Thread(target=self._send_all, name="medvit-sender", daemon=True)
        self._sender.start()

    def send(self, message: ToWorker) -> None:
        """Send a message without waiting."""
        self._messages.put(message)

    def is_alive(self) -> bool:
        """Return whether the process runs."""
        return self.process.is_alive()

    def takes_next(self) -> bool:
        """Return True, since the worker can receive at any time."""
        return True

    def end(self) -> None:
        """Kill the process and close the pipe."""
        if self.ended:
            return
        self.ended = True
        self.process.kill()
        self.process.join()
        self._messages.put(None)
        self._sender.join()
        self.connection.close()

    def ends(self) -> tuple[Connection, int]:
        """Return the handles to wait for: the pipe, and the sentinel of the process."""
        return self.connection, self.process.sentinel

    def received(self) -> list[FromWorker]:
        """Return the messages that have arrived; the last one is ``WorkerLost`` if the process has ended."""
        found: list[FromWorker] = []
        try:
            while self.connection.poll():
                found.append(self.connection.recv())
        except (EOFError, OSError):  # the worker has closed its end, so the process is about to end
            self.process.join(_LAST_STEPS)
        if not self.process.is_alive():
            found.append(WorkerLost(detail=_how_it_ended(self.process)))
        return found

    def _send_all(self) -> None:
        with contextlib.suppress(OSError):
            while (message := self._messages.get()) is not None:
                self.connection.send(message)


class PipeTransport:
    """Up to ``count`` worker processes on this machine.

    Args:
        count: maximum number of workers.
        threads: threads for each worker.
        run: function with which a worker runs a case.
        sharers: number of workers that share this machine's memory, if there are others than these; results of a case
            are then written before the next case is given.
    """

    keeps_time_limit = False

    def __init__(self, count: int, *, threads: int, run: Runner = run_case, sharers: int = 0) -> None:
        self.count, self._threads, self._run = count, threads, run
        self._workers, self._writes_behind = max(count, sharers), not sharers
        self._processes: list[_Process] = []

    def joined(self) -> list[WorkerLink]:
        """Return an empty list, since workers do not join by themselves."""
        return []

    def startable(self, workers: int) -> int:
        """Return the number of workers that could still be started."""
        return self.count - workers

    def start(self) -> WorkerLink:
        """Start a worker process."""
        wait_passively()
        settings = WorkerSettings(
            threads=self._threads,
            environment=dict(os.environ),
            workers=self._workers,
            writes_behind=self._writes_behind,
        )
        process, connection = start_process(serve, (self._run, settings), self._threads)
        self._processes = [kept for kept in self._processes if not kept.ended]
        self._processes.append(_Process(process, connection))
        return self._processes[-1]

    def wait(self, seconds: float) -> list[tuple[WorkerLink, FromWorker]]:
        """Return the messages that arrive within that time."""
        open_ = [process for process in self._processes if not process.ended]
        ends = wait([end for process in open_ for end in process.ends()], seconds)
        ready = [process for process in open_ if any(end in ends for end in process.ends())]
        return [(process, message) for process in ready for message in process.received()]

    def close(self) -> None:
        """Do nothing: the dispatcher ends the processes one by one."""


def _how_it_ended(process: BaseProcess) -> str:
    """Describe the end of a process in words."""
    process.join()
    code = process.exitcode or 0
    if code == _SERVER_LOST:
        return "it was ended by the end of the fork server"
    if code >= 0:
        return f"it ended with exit code {code}"
    with contextlib.suppress(ValueError):
        return f"it was ended by {signal.Signals(-code).name}"
    return f"it was ended by signal {-code}"
