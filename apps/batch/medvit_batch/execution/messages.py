"""Messages between a dispatcher and its workers, and the events that a dispatcher returns."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from medvit_batch.cases import CaseJob, Outcome

__all__ = [
    "Announced",
    "Answer",
    "CaseDone",
    "CaseEnded",
    "CaseReleased",
    "CaseStarted",
    "EndKind",
    "Event",
    "FromWorker",
    "InputHashed",
    "NextCase",
    "PrefetchMessage",
    "ReadingEnded",
    "ReadingStarted",
    "RunCase",
    "StageChanged",
    "ToWorker",
    "WorkerLost",
    "WorkerReady",
]

_MEMORY = ("MemoryError", "OutOfMemoryError", "MemoryShortError")
"""Error types of a case that ran out of memory."""


class EndKind(StrEnum):
    """Kind of end that a case had at a worker.

    Attributes:
        DONE: the worker returned an outcome.
        START_FAILED: the worker ended before it was ready.
        TIMED_OUT: the worker was ended because the case reached its time limit.
        CRASHED: the worker ended while it had the case.
        REQUEUED: the worker was ended because of another case.
    """

    DONE = "done"
    START_FAILED = "start_failed"
    TIMED_OUT = "timed_out"
    CRASHED = "crashed"
    REQUEUED = "requeued"


@dataclass(frozen=True, kw_only=True)
class RunCase:
    """Order to run a case; ``alone`` forbids work on other cases at the same time."""

    job: CaseJob
    alone: bool


@dataclass(frozen=True, kw_only=True)
class NextCase:
    """Announcement of the case to read while the current one runs; None withdraws it."""

    job: CaseJob | None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Reply to ``InputHashed``: True if the case must be run."""

    go_on: bool


ToWorker = RunCase | NextCase | Answer


@dataclass(frozen=True, kw_only=True)
class WorkerReady:
    """First message of a worker, sent when it is ready."""


@dataclass(frozen=True, kw_only=True)
class _CaseNotice:
    """Message of a worker about one case, by its number."""

    case: int


class ReadingStarted(_CaseNotice):
    """Notice that the worker begins to read a case ahead."""


class ReadingEnded(_CaseNotice):
    """Notice that the worker has read a case ahead, or failed to."""


@dataclass(frozen=True, kw_only=True)
class InputHashed(_CaseNotice):
    """Hash of a case's images; the worker waits for an ``Answer``."""

    digest: str


class CaseStarted(_CaseNotice):
    """Notice that the model of a case is loaded and its time limit counts from now."""


@dataclass(frozen=True, kw_only=True)
class StageChanged(_CaseNotice):
    """Notice that a case enters a stage."""

    stage: str


@dataclass(frozen=True, kw_only=True)
class Announced(_CaseNotice):
    """Line for the user about work that takes long once, such as the preparation of a network for this machine."""

    text: str


class CaseReleased(_CaseNotice):
    """Notice that the results of a case are written in the background, and the worker is free for another case."""


@dataclass(frozen=True, kw_only=True)
class CaseDone(_CaseNotice):
    """Outcome of a case, as the worker sends it."""

    outcome: Outcome


@dataclass(frozen=True, kw_only=True)
class WorkerLost:
    """Notice that a worker has ended, sent by its transport.

    Attributes:
        detail: kind of end, in words.
    """

    detail: str


@dataclass(frozen=True, kw_only=True)
class CaseEnded:
    """End of a case at a worker; a dispatcher on a cluster's worker sends it to the dispatcher of the run.

    Attributes:
        case: number of the case.
        kind: kind of end.
        outcome: outcome from the worker; None unless the kind is DONE.
        detail: kind of end of the worker, if the worker ended.
        stage: stage in which the case was.
        concurrent_cases: other cases that the worker had, one of which may be the cause.
    """

    case: int
    kind: EndKind
    outcome: Outcome | None = None
    detail: str = ""
    stage: str = ""
    concurrent_cases: frozenset[int] = frozenset()

    @property
    def may_be_caused_by_another(self) -> bool:
        """True if another case may be the cause: the worker crashed, hung, or ran out of memory."""
        if self.outcome is not None:
            return self.outcome.code in _MEMORY
        return self.kind in (EndKind.TIMED_OUT, EndKind.CRASHED)


PrefetchMessage = ReadingStarted | ReadingEnded
FromWorker = (
    WorkerReady
    | PrefetchMessage
    | InputHashed
    | CaseStarted
    | StageChanged
    | Announced
    | CaseReleased
    | CaseDone
    | CaseEnded
    | WorkerLost
)
Event = InputHashed | Announced | CaseEnded
"""Events that the caller of a dispatcher must handle; ``InputHashed`` needs ``Dispatcher.answer``."""
