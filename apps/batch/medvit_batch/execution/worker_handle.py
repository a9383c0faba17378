"""Handle of a worker in its dispatcher: cases, deadlines and the link."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from medvit_batch.cases import CaseJob
from medvit_batch.execution.messages import FromWorker, ToWorker

__all__ = ["NEVER", "ActiveCase", "Transport", "Worker", "WorkerLink"]

NEVER = float("inf")


class WorkerLink(Protocol):
    """Link of a dispatcher to one worker."""

    def send(self, message: ToWorker) -> None:
        """Send a message without waiting; a worker that has ended is reported by its transport."""

    def is_alive(self) -> bool:
        """Return whether the worker can still be given cases."""

    def takes_next(self) -> bool:
        """Return whether the worker can be told its next case now."""

    def end(self) -> None:
        """End the worker at once."""


class Transport(Protocol):
    """Transport of messages between a run and its workers; it also starts workers or finds those that join.

    Attributes:
        keeps_time_limit: True if a dispatcher at the other end ends a case at its time limit.
    """

    keeps_time_limit: bool

    def joined(self) -> list[WorkerLink]:
        """Return links to workers that joined by themselves since the last call."""

    def startable(self, workers: int) -> int:
        """Return the number of further workers that could be started if there are already ``workers``."""

    def start(self) -> WorkerLink:
        """Start a worker."""

    def wait(self, seconds: float) -> list[tuple[WorkerLink, FromWorker]]:
        """Return the messages that arrive within that time; return as soon as there is one."""

    def close(self) -> None:
        """Release connections and threads; all workers have ended before."""


@dataclass(eq=False, kw_only=True)
class ActiveCase:
    """A case assigned to a worker, with its deadline.

    Attributes:
        job: the case.
        deadline: time by ``time.monotonic`` at which its worker is ended.
        stage: current stage of the case.
        alone: True if its worker does nothing else meanwhile.
    """

    job: CaseJob
    deadline: float = NEVER
    stage: str = "start"
    alone: bool = False


@dataclass(eq=False, kw_only=True)
class Worker:
    """A worker with its cases.

    Attributes:
        link: link to the worker.
        deadline: time by which it must be ready.
        ready: True once it receives messages.
        case: the case that it runs.
        behind: the previous case, whose results it still writes.
        ahead: the next case, which it was told to read.
        reading: number of the case that it is reading ahead; None if none.
    """

    link: WorkerLink
    deadline: float
    ready: bool = False
    case: ActiveCase | None = None
    behind: ActiveCase | None = None
    ahead: CaseJob | None = None
    reading: int | None = None

    def active(self) -> list[ActiveCase]:
        """Return the cases assigned to the worker."""
        return [case for case in (self.behind, self.case) if case is not None]

    def due(self) -> float:
        """Return the time by which the worker must be ready or, once it is, the first deadline of its cases."""
        if not self.ready:
            return self.deadline
        return min((case.deadline for case in self.active()), default=NEVER)

    def concurrent_cases(self, case: ActiveCase, *, held: bool) -> frozenset[int]:
        """Return the numbers of the worker's other cases; with ``held``, also of the case that it was told to read
        ahead.
        """
        found = {other.job.case for other in self.active()}
        found |= {self.reading} if self.reading is not None else set()
        found |= {self.ahead.case} if held and self.ahead is not None else set()
        return frozenset(found - {case.job.case})

    def hungry(self) -> bool:
        """Return whether the worker could be told its next case."""
        return self.case is not None and not self.case.alone and self.ahead is None and self.link.takes_next()
