"""A worker process as its parent sees it: what it has in hand, and how to talk to it."""

from __future__ import annotations

import contextlib
import queue
import signal
import threading
import time
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

from medvit_batch.cases import CaseJob
from medvit_batch.execution.worker import Runner, serve

__all__ = ["FIRST_STEPS", "NEVER", "ActiveCase", "Worker", "how_it_ended", "started"]

FIRST_STEPS = 120.0
"""Seconds that a worker may take to start, on a busy machine with a cold disk."""

NEVER = float("inf")


@dataclass(eq=False)
class ActiveCase:
    """A case that a worker has in hand; what answers for it."""

    job: CaseJob
    worker: Worker
    since: float
    deadline: float
    stage: str = "start"
    alone: bool = False

    def answer(self, go_on: bool) -> None:
        """Tell a worker that asked whether to go on; one that has died meanwhile shows up as lost."""
        self.worker.send("answer", go_on)


@dataclass(eq=False)
class Worker:
    """A process.

    Attributes:
        deadline: when it must be ready.
        case: what it runs.
        behind: what it writes beside that.
        ahead: what it was told comes next.
        reading: number of the case that it reads beside the one it runs.
    """

    process: SpawnProcess
    connection: Connection
    deadline: float
    lines: queue.SimpleQueue[tuple[str, Any] | None]
    speaker: threading.Thread
    ready: bool = False
    case: ActiveCase | None = None
    behind: ActiveCase | None = None
    ahead: CaseJob | None = None
    reading: int | None = None

    def send(self, what: str, content: Any) -> None:
        """Say something, without waiting for a worker that is too busy to listen."""
        self.lines.put((what, content))

    def end(self) -> None:
        """End it, wherever it is."""
        self.process.kill()
        self.process.join()
        self.lines.put(None)
        self.speaker.join()
        self.connection.close()

    def in_hand(self) -> list[ActiveCase]:
        """The cases that it is responsible for."""
        return [case for case in (self.behind, self.case) if case is not None]

    def due(self) -> float:
        """When something must have happened."""
        if not self.ready:
            return self.deadline
        return min((case.deadline for case in self.in_hand()), default=NEVER)

    def concurrent_cases(self, case: ActiveCase, *, held: bool) -> frozenset[int]:
        """What else it is at; with what it only holds in memory."""
        found = {other.job.case for other in self.in_hand()}
        found |= {self.reading} if self.reading is not None else set()
        found |= {self.ahead.case} if held and self.ahead is not None else set()
        return frozenset(found - {case.job.case})

    def hungry(self) -> bool:
        """Whether it could be told what comes next."""
        return self.case is not None and not self.case.alone and self.ahead is None


def started(run: Runner, threads: int, sharers: int, behind: bool) -> Worker:
    """A new process; see ``serve``."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(
        target=serve, args=(theirs, run, threads, sharers, behind), name="medvit-batch-worker", daemon=True
    )
    process.start()
    theirs.close()
    lines: queue.SimpleQueue[tuple[str, Any] | None] = queue.SimpleQueue()
    speaker = threading.Thread(target=_speak, args=(ours, lines), name="medvit-speaker", daemon=True)
    speaker.start()
    return Worker(process, ours, time.monotonic() + FIRST_STEPS, lines, speaker)


def _speak(connection: Connection, lines: queue.SimpleQueue[tuple[str, Any] | None]) -> None:
    """Send line after line; a worker that has died shows up elsewhere."""
    with contextlib.suppress(OSError):
        while (line := lines.get()) is not None:
            connection.send(line)


def how_it_ended(process: SpawnProcess) -> str:
    """In words, once it has."""
    process.join()
    code = process.exitcode or 0
    if code >= 0:
        return f"it ended with exit code {code}"
    with contextlib.suppress(ValueError):
        return f"it was ended by {signal.Signals(-code).name}"
    return f"it was ended by signal {-code}"
