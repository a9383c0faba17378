"""The cluster that a batch runs on: its description, and a started one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvit_batch.errors import BatchError

__all__ = ["CONNECT", "DASHBOARD", "STARTED", "Cluster", "ClusterSpec", "closed"]


STARTED = ("local", "slurm", "cuda")
"""Clusters that are started for a run; anything else is the address of a scheduler."""


CONNECT = 30
"""Seconds within which a scheduler must answer."""


_LOCAL = "127.0.0.1"


DASHBOARD = f"{_LOCAL}:8787"
"""For whoever is on this machine; where the port is taken, Dask chooses another."""


@dataclass(frozen=True)
class ClusterSpec:
    """Where cases are run.

    Attributes:
        cluster: address of a scheduler, or one of ``STARTED``.
        workers: how many are started; for "cuda" there is one for each GPU.
        job: (name, value) pairs, for "slurm"; see ``slurm.read_job``.
        out: the batch's folder; what jobs print, and what they need to be let in, goes there.
    """

    cluster: str
    workers: int = 1
    job: tuple[tuple[str, str], ...] = ()
    out: Path = Path()


@dataclass(frozen=True, eq=False)
class Cluster:
    """A cluster in use.

    Attributes:
        client: talks to it.
        address: of its scheduler.
        close: ends what was started for the run.
        queued: whether its workers may still wait in the queue of a batch system.
    """

    client: Any
    address: str
    close: Callable[[], None]
    queued: bool = False


def closed() -> Any:
    """Connections that only this run's own workers can make: whoever reaches a scheduler could have it run anything.

    Raises:
        BatchError: what makes certificates is not installed.
    """
    from distributed.security import Security

    try:
        return Security.temporary()
    except ImportError as error:
        raise BatchError(
            "Found that cryptography is not installed; without it, anybody who reaches the cluster could use it. Run pip install "
            "'medvit[distributed]'."
        ) from error
