"""All a run was asked, ready to be done, and how its outcome reads as an exit code."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medvit_batch.cases import State
from medvit_batch.execution.cluster_spec import ClusterSpec
from medvit_batch.journal import Journal
from medvit_batch.selection.plan import Plan

__all__ = ["Batch", "Limits", "exit_code"]


@dataclass(frozen=True)
class Limits:
    """What a run may take.

    Attributes:
        workers: processes.
        time_limit: seconds a case may take.
        stop_after: failures in a row after which a run stops.
        min_free_gb: free space below which no case is started.
        grace: seconds that cases at work are given when the run is stopped.
        where: the Dask cluster whose workers are used in place of processes of our own, if any.
        metrics_port: port of this machine at which metrics are served; 0 for none.
    """

    workers: int = 1
    time_limit: float = 3600.0
    stop_after: int = 10
    min_free_gb: float = 1.0
    grace: float = 60.0
    metrics_port: int = 0
    where: ClusterSpec | None = None


@dataclass(frozen=True)
class Batch:
    """All a run was asked."""

    archive: Path
    out: Path
    plan: Plan
    limits: Limits
    command: dict[str, Any] = field(default_factory=dict)


def exit_code(journal: Journal, ended: str) -> int:
    """0 all done · 1 stopped by failures or for want of space, or nothing but failures · 3 a person must look, or some wait."""
    counts = journal.counts()
    if ended in ("failures", "space") or (counts.get("failed") and not counts.get("published")):
        return 1
    open_ = sum(counts.get(s, 0) for s in (State.FAILED, State.SET_ASIDE, State.PENDING, State.RUNNING, State.CHECKED))
    return 3 if open_ or journal.flagged() else 0
