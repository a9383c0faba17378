"""Dask clusters: an existing one, or one that is started for a run and ends with it."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from medvit_batch.errors import BatchError
from medvit_batch.execution.cluster_spec import _LOCAL, CONNECT, DASHBOARD, STARTED, Cluster, ClusterSpec, closed
from medvit_batch.execution.environment import restored_environment

__all__ = ["started"]


def started(where: ClusterSpec) -> Cluster:
    """Connect to a cluster or start one; its workers may not have joined yet.

    Raises:
        BatchError: a package is not installed, or the cluster is not reachable.
    """
    from medvit_batch.execution.slurm import slurm_cluster

    client_of = _distributed()
    if where.cluster not in STARTED:
        return _connected(client_of, where.cluster)
    with ExitStack() as begun:
        with restored_environment():  # Dask's nannies set variables in the environment of the process that starts them
            made = {"local": _local, "slurm": slurm_cluster, "cuda": _cuda}[where.cluster](where, begun)
        client = client_of(made, set_as_default=False)
        begun.callback(client.close)
        ends = begun.pop_all()

    def close() -> None:
        with restored_environment():
            ends.close()

    return Cluster(client, str(made.scheduler_address), close, where.cluster == "slurm")


def _distributed() -> Any:
    try:
        from distributed import Client
    except ImportError as error:
        raise BatchError(
            "that distributed is not installed", "--cluster needs it", "Run pip install 'medvit[distributed]'."
        ) from error
    return Client


def _connected(client_of: Any, address: str) -> Cluster:
    try:
        client = client_of(address, timeout=CONNECT, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise BatchError(
            f"no Dask scheduler at {address} ({type(error).__name__})",
            f"its address is needed, such as tcp://host:8786, or one of {', '.join(STARTED)}",
            "Start one with dask scheduler, and workers with dask worker ADDRESS --nthreads 1.",
        ) from error
    return Cluster(client, address, client.close)


def _local(where: ClusterSpec, begun: ExitStack) -> Any:
    from distributed import LocalCluster

    # no memory limit: our worker processes hold the images, and Dask does not count them
    made = LocalCluster(
        n_workers=where.workers,
        threads_per_worker=1,
        host=_LOCAL,
        dashboard_address=DASHBOARD,
        memory_limit=0,
        silence_logs="ERROR",
        security=closed(),
    )
    begun.callback(made.close)
    return made


def _cuda(where: ClusterSpec, begun: ExitStack) -> Any:
    try:
        from dask_cuda import LocalCUDACluster
    except ImportError as error:
        raise BatchError(
            "that dask-cuda is not installed",
            "--cluster cuda needs it",
            (
                "Run pip install 'medvit[cuda-cluster]' on a Linux machine with NVIDIA GPUs, or start a dask worker for "
                "each GPU with CUDA_VISIBLE_DEVICES and give the scheduler's address."
            ),
        ) from error
    security = closed()
    try:
        made = LocalCUDACluster(
            host=_LOCAL, dashboard_address=DASHBOARD, threads_per_worker=1, silence_logs="ERROR", security=security
        )
    except Exception as error:  # NVIDIA's libraries raise errors of many types
        raise BatchError(
            f"that no cluster of GPUs can be started here ({type(error).__name__})",
            "NVIDIA GPUs and their driver are needed",
            "See nvidia-smi, or run without --cluster.",
        ) from error
    begun.callback(made.close)
    return made
