"""A worker as its dispatcher sees it: its cases, its deadlines, and the link to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from medvit_batch.cases import CaseJob
from medvit_batch.execution.messages import FromWorker, ToWorker

__all__ = ["NEVER", "ActiveCase", "Transport", "Worker", "WorkerLink"]

NEVER = float("inf")


class WorkerLink(Protocol):
    """A dispatcher's link to one worker."""

    def send(self, message: ToWorker) -> None:
        """Send a message without waiting; a worker that has ended is reported by its transport."""

    def is_alive(self) -> bool:
        """Return whether the worker can still be given cases."""

    def takes_next(self) -> bool:
        """Return whether the worker can be told now which case comes next."""

    def end(self) -> None:
        """End the worker, whatever it is doing."""


class Transport(Protocol):
    """The way to the workers of a run: where they come from, and how messages reach them.

    Attributes:
        keeps_time_limit: True if the other end ends a case at its time limit by itself.
    """

    keeps_time_limit: bool

    def joined(self) -> list[WorkerLink]:
        """Return links to workers that joined by themselves since the last call."""

    def startable(self, workers: int) -> int:
        """Return how many workers could be started beside the given number."""

    def start(self) -> WorkerLink:
        """Start a worker."""

    def wait(self, seconds: float) -> list[tuple[WorkerLink, FromWorker]]:
        """Return the messages that arrive within that time; return as soon as there is one."""

    def close(self) -> None:
        """Free what the transport holds; all workers were ended before."""


@dataclass(eq=False, kw_only=True)
class ActiveCase:
    """A case assigned to a worker, with its deadline.

    Attributes:
        job: the case.
        deadline: when its worker is ended, by ``time.monotonic``.
        stage: the stage it is in.
        alone: True if its worker does nothing beside it.
    """

    job: CaseJob
    deadline: float = NEVER
    stage: str = "start"
    alone: bool = False


@dataclass(eq=False, kw_only=True)
class Worker:
    """A worker with its cases.

    Attributes:
        link: the way to it.
        deadline: when it must be ready.
        ready: True once it takes messages.
        case: the case that it runs.
        behind: the case whose results it writes beside that.
        ahead: the case that it was told comes next.
        reading: number of the case that it reads beside the one it runs.
    """

    link: WorkerLink
    deadline: float
    ready: bool = False
    case: ActiveCase | None = None
    behind: ActiveCase | None = None
    ahead: CaseJob | None = None
    reading: int | None = None

    def active(self) -> list[ActiveCase]:
        """Return the cases assigned to it."""
        return [case for case in (self.behind, self.case) if case is not None]

    def due(self) -> float:
        """Return when it must be ready or, once it is, when the first of its cases must be done."""
        if not self.ready:
            return self.deadline
        return min((case.deadline for case in self.active()), default=NEVER)

    def concurrent_cases(self, case: ActiveCase, *, held: bool) -> frozenset[int]:
        """Return numbers of the other cases at the worker; with ``held``, also of the case that it only keeps in memory."""
        found = {other.job.case for other in self.active()}
        found |= {self.reading} if self.reading is not None else set()
        found |= {self.ahead.case} if held and self.ahead is not None else set()
        return frozenset(found - {case.job.case})

    def hungry(self) -> bool:
        """Return whether it could be told which case comes next."""
        return self.case is not None and not self.case.alone and self.ahead is None and self.link.takes_next()
