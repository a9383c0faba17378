"""Description of the cluster that a batch runs on, and the handle of a started one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvit_batch.errors import BatchError

__all__ = ["CONNECT", "DASHBOARD", "STARTED", "Cluster", "ClusterSpec", "closed"]


STARTED = ("local", "slurm", "cuda")
"""Clusters that are started for a run; any other value is the address of a scheduler."""


CONNECT = 30
"""Seconds within which a scheduler must answer."""


_LOCAL = "127.0.0.1"


DASHBOARD = f"{_LOCAL}:8787"
"""Address of the dashboard, reachable from this machine only; if the port is taken, Dask chooses another."""


@dataclass(frozen=True)
class ClusterSpec:
    """Description of the cluster that runs the cases.

    Attributes:
        cluster: address of a scheduler, or one of ``STARTED``.
        workers: number of workers to start; "cuda" starts one for each GPU.
        job: (name, value) pairs of a "slurm" job; see ``slurm.read_job``.
        out: folder of the batch, for the output and the certificates of jobs.
    """

    cluster: str
    workers: int = 1
    job: tuple[tuple[str, str], ...] = ()
    out: Path = Path()


@dataclass(frozen=True, eq=False)
class Cluster:
    """A cluster in use.

    Attributes:
        client: Dask client of the cluster.
        address: address of its scheduler.
        close: function that ends everything started for the run.
        queued: True if its workers may still wait in the queue of a batch system.
    """

    client: Any
    address: str
    close: Callable[[], None]
    queued: bool = False


def closed() -> Any:
    """Return TLS settings with temporary certificates, so that only this run's workers can connect.

    Anyone who can reach an open scheduler could have it run any code.
    """
    from distributed.security import Security

    try:
        return Security.temporary()
    except ImportError as error:
        raise BatchError(
            "that cryptography is not installed",
            "without it, anybody who reaches the cluster could use it",
            "Run pip install 'medvit[distributed]'.",
        ) from error
