"""SLURM jobs as workers, through dask-jobqueue."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

from medvit_batch.errors import BatchError
from medvit_batch.execution.cluster_spec import CONNECT, DASHBOARD, ClusterSpec, closed

__all__ = ["SCHEDULER", "job_script", "read_job", "slurm_cluster"]

SCHEDULER = "tls://ADDRESS-OF-THIS-MACHINE:PORT"
"""Placeholder for the scheduler's address in a script that is only shown."""

_JOB = ("account", "cores", "gres", "interface", "memory", "prologue", "python", "queue", "walltime")
"""Names that ``--job`` accepts; Dask's own jobqueue.yaml knows more."""

_USUAL_CORES, _USUAL_MEMORY = 4, "16GB"
_NAME, _KEYS = "medvit", ".keys-"
_NAP = 0.1


def read_job(words: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Parse the name=value settings of jobs.

    Raises:
        BatchError: a name is unknown, or a value is not valid.
    """
    found: dict[str, str] = {}
    for text in words:
        name, _, value = text.partition("=")
        if name not in _JOB or not value or not value.isprintable():
            raise BatchError(
                f"--job {text!r}",
                f"name=value is needed, with a name of {', '.join(_JOB)}",
                "Correct it; more can be said in Dask's jobqueue.yaml.",
            )
        found[name] = value
    if not re.fullmatch(r"[1-9]\d{0,4}", found.get("cores", "1")):
        raise BatchError(f"--job cores={found['cores']}", "a whole number from 1 is needed", "Correct it.")
    if not re.fullmatch(r"\d+(\.\d+)? ?[kMGT]i?B", found.get("memory", "1GB")):
        raise BatchError(f"--job memory={found['memory']}", "a size such as 16GB is needed", "Correct it.")
    return tuple(sorted(found.items()))


def slurm_cluster(where: ClusterSpec, begun: ExitStack) -> Any:
    """Start a cluster whose workers are SLURM jobs; they may wait in the queue for a long time.

    Args:
        where: number of jobs, and the resources of each.
        begun: exit stack that will end the cluster.

    Raises:
        BatchError: dask-jobqueue or sbatch is missing, or SLURM accepts no job.
    """
    kind = _slurm_cluster()  # this import also loads its part of Dask's configuration
    if shutil.which("sbatch") is None:
        raise BatchError(
            "no sbatch on the PATH",
            "--cluster slurm submits its jobs with it",
            "Run this on a machine of the cluster that may submit.",
        )
    asked = _asked(where)
    options = {"dashboard_address": DASHBOARD, **(_configured("jobqueue.slurm.scheduler-options") or {})}
    security = _kept(closed(), Path(asked["log_directory"]), begun)
    cluster = kind(**asked, security=security, scheduler_options=options, silence_logs="ERROR")
    begun.callback(_end, cluster)
    with _without_traces():
        cluster.scale(jobs=where.workers)
        _wait_for_jobs(cluster, where.workers)
    cluster.adapt(
        minimum_jobs=where.workers, maximum_jobs=where.workers
    )  # a job that ends, as at its walltime, is followed by another
    return cluster


def _kept(security: Any, home: Path, begun: ExitStack) -> Any:
    """Write the certificates to files that only their owner can read and that jobs find; they are removed with the
    cluster.
    """
    home.mkdir(parents=True, exist_ok=True)
    for left in home.glob(f"{_KEYS}*"):  # from a run that was killed, since there is only one run at a time
        shutil.rmtree(left, ignore_errors=True)
    made = Path(mkdtemp(prefix=_KEYS, dir=home))
    begun.callback(shutil.rmtree, made, ignore_errors=True)
    texts, paths = security.get_tls_config_for_role("worker"), {}
    for name in ("ca_file", "cert", "key"):
        paths[name] = str(made / f"{name}.pem")
        Path(paths[name]).write_text(texts[name])
    roles = {
        f"tls_{role}_{name}": paths[name] for role in ("client", "scheduler", "worker") for name in ("cert", "key")
    }
    return type(security)(tls_ca_file=paths["ca_file"], require_encryption=True, **roles)


def _end(cluster: Any) -> None:
    with contextlib.suppress(AssertionError):  # raised by Dask about jobs that were never accepted
        cluster.close()


def _configured(key: str) -> Any:
    import dask

    return dask.config.get(key, None)


@contextmanager
def _without_traces() -> Iterator[None]:
    """Silence the tracebacks of Dask about refused jobs, which are reported by a ``BatchError``."""
    loggers = [logging.getLogger(name) for name in ("tornado.application", "asyncio")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _wait_for_jobs(cluster: Any, jobs: int) -> None:
    """Wait until each job was submitted to SLURM.

    Raises:
        BatchError: SLURM accepted none.
    """
    until = time.monotonic() + CONNECT * jobs
    while len(cluster.workers) < jobs and time.monotonic() < until:
        time.sleep(_NAP)
    if not any(getattr(job, "job_id", None) for job in cluster.workers.values()):
        raise BatchError(
            f"that SLURM took none of {jobs} job(s)",
            "sbatch must accept them",
            "Give it the script that --dry-run prints, to see why it does not.",
        )


def _slurm_cluster() -> Any:
    try:
        from dask_jobqueue import SLURMCluster
    except ImportError as error:
        raise BatchError(
            "that dask-jobqueue is not installed", "--cluster slurm needs it", "Run pip install 'medvit[slurm]'."
        ) from error
    return SLURMCluster


def _asked(where: ClusterSpec) -> dict[str, Any]:
    """Return dask-jobqueue's settings for a job: one worker, which runs one case at a time with all cores of the job."""
    job = dict(where.job)
    gres, prologue = job.pop("gres", ""), job.pop("prologue", "")
    folder = os.path.abspath(where.out / "jobs")  # noqa: PTH100 - links are kept, since other machines may not see their targets
    asked: dict[str, Any] = {
        "processes": 1,
        "cores": int(job.pop("cores", _USUAL_CORES)),
        "memory": job.pop("memory", _USUAL_MEMORY),
        "job_name": _NAME,
        "log_directory": folder,
        **job,
    }
    if gres:
        asked["job_extra_directives"] = [f"--gres={gres}"]
    if prologue:
        asked["job_script_prologue"] = [prologue]
    return asked


def job_script(where: ClusterSpec) -> str:
    """Return the script that each job would run, without its certificates; start and submit nothing.

    Raises:
        BatchError: dask-jobqueue is not installed.
    """
    asked = _asked(where)
    with TemporaryDirectory(
        prefix="medvit-"
    ) as aside:  # dask-jobqueue creates the log folder, and a dry run must not create one
        job = _slurm_cluster().job_cls(SCHEDULER, name=f"{_NAME}-0", **{**asked, "log_directory": aside})
        return str(job.job_script()).replace(aside, asked["log_directory"])
