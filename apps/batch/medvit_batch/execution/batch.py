"""Settings of a run, and the exit code of its outcome."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medvit_batch.cases import State
from medvit_batch.execution.cluster_spec import ClusterSpec
from medvit_batch.journal import Journal
from medvit_batch.selection.plan import Plan

__all__ = ["Batch", "Limits", "exit_code"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of a run.

    Attributes:
        workers: number of worker processes.
        time_limit: seconds a case may take.
        stop_after: failures in a row after which the run stops.
        min_free_gb: free space below which no case is started.
        grace: seconds that running cases get to finish when the run is stopped.
        where: Dask cluster whose workers replace local processes; None for local processes.
        metrics_port: port on this machine that serves metrics; 0 for none.
    """

    workers: int = 1
    time_limit: float = 3600.0
    stop_after: int = 10
    min_free_gb: float = 1.0
    grace: float = 60.0
    metrics_port: int = 0
    where: ClusterSpec | None = None


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Settings of a run: archive, output folder, plan, limits and the command that was given."""

    archive: Path
    out: Path
    plan: Plan
    limits: Limits
    command: dict[str, Any] = field(default_factory=dict)


def exit_code(journal: Journal, ended: str) -> int:
    """Return the exit code of a run.

    0: all cases done. 1: stopped by failures or lack of space, or cases failed and none has a result. 3: cases are open
    or flagged, so a person must look.
    """
    counts = journal.counts()
    if ended in ("failures", "space") or (counts.get("failed") and not counts.get("published")):
        return 1
    open_ = sum(counts.get(s, 0) for s in (State.FAILED, State.SET_ASIDE, State.PENDING, State.RUNNING, State.CHECKED))
    return 3 if open_ or journal.flagged() else 0
