"""Messages between a dispatcher and its workers, and the events that a dispatcher hands on."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from medvit_batch.cases import CaseJob, Outcome

__all__ = [
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
"""Kinds of error of a case that had too little memory."""


class EndKind(StrEnum):
    """How a case ended at a worker.

    Attributes:
        DONE: the worker gave an outcome.
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
    """An order to run a case; ``alone`` forbids work on other cases beside it."""

    job: CaseJob
    alone: bool


@dataclass(frozen=True, kw_only=True)
class NextCase:
    """The case to read while the current one runs; None withdraws it."""

    job: CaseJob | None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The reply to ``InputHashed``: whether the case must be run."""

    go_on: bool


ToWorker = RunCase | NextCase | Answer


@dataclass(frozen=True, kw_only=True)
class WorkerReady:
    """A worker's first message."""


@dataclass(frozen=True, kw_only=True)
class ReadingStarted:
    """The worker begins to read a case ahead."""

    case: int


@dataclass(frozen=True, kw_only=True)
class ReadingEnded:
    """The worker has read a case ahead, or has failed to."""

    case: int


@dataclass(frozen=True, kw_only=True)
class InputHashed:
    """The hash of a case's images; the worker waits for an ``Answer``."""

    case: int
    digest: str


@dataclass(frozen=True, kw_only=True)
class CaseStarted:
    """The model of a case is loaded: the case's time limit counts from now."""

    case: int


@dataclass(frozen=True, kw_only=True)
class StageChanged:
    """A case enters a stage."""

    case: int
    stage: str


@dataclass(frozen=True, kw_only=True)
class CaseReleased:
    """The results of a case are written beside the next: the worker is free for another."""

    case: int


@dataclass(frozen=True, kw_only=True)
class CaseDone:
    """The outcome of a case."""

    case: int
    outcome: Outcome


@dataclass(frozen=True, kw_only=True)
class WorkerLost:
    """A worker has ended; its transport reports it.

    Attributes:
        detail: how it ended, in words.
    """

    detail: str


@dataclass(frozen=True, kw_only=True)
class CaseEnded:
    """The end of a case at a worker; a dispatcher on a cluster's worker sends it to the dispatcher of the run.

    Attributes:
        case: its number.
        kind: how it ended.
        outcome: what the worker gave; None unless the kind is DONE.
        detail: how the worker ended, where it did.
        stage: the stage in which the case was.
        concurrent_cases: numbers of other cases that the worker had, one of which may be the reason.
    """

    case: int
    kind: EndKind
    outcome: Outcome | None = None
    detail: str = ""
    stage: str = ""
    concurrent_cases: frozenset[int] = frozenset()

    @property
    def may_be_caused_by_another(self) -> bool:
        """True if another case may be the reason: the worker crashed, hung, or ran out of memory."""
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
    | CaseReleased
    | CaseDone
    | CaseEnded
    | WorkerLost
)
Event = InputHashed | CaseEnded
"""What the caller of a dispatcher must act on; ``InputHashed`` needs ``Dispatcher.answer``."""
