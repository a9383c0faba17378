"""Cases on the workers of a Dask cluster: real schedulers and workers, each a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import Result
from medvit_batch.cli import app
from medvit_batch.execution.environment import restored_environment
from typer.testing import CliRunner

from tests.batch.archives import command, make_mixed, write_small
from tests.batch.execution.test_session import counts, results, seconds, until
from tests.nodes import free_port, wait_for_port

pytest.importorskip("distributed", reason="the extra 'distributed' is not installed")


@contextmanager
def _cluster(folder: Path, workers: int) -> Iterator[tuple[str, list[subprocess.Popen[str]]]]:
    """A scheduler and workers with nannies, as ``dask worker`` starts them; yields its address and the workers."""
    port, (_, env) = free_port(), command()
    folder.mkdir()
    address, log = f"tcp://127.0.0.1:{port}", (folder / "log").open("w")

    def start(*words: str) -> subprocess.Popen[str]:
        line = [sys.executable, "-m", *words, "--no-dashboard"]
        return subprocess.Popen(line, env=env, cwd=folder, stdout=log, stderr=log, text=True)

    scheduler = start("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(port))
    started: list[subprocess.Popen[str]] = []
    try:
        wait_for_port(port)
        started += [start("distributed.cli.dask_worker", address, "--nthreads", "1") for _ in range(workers)]
        yield address, started
    finally:
        for process in (*started, scheduler):
            process.terminate()
        for process in (*started, scheduler):
            process.wait(30)
        log.close()


def test_nobody_at_the_address_is_told(banded, tmp_path, monkeypatch):
    monkeypatch.setattr("medvit_batch.execution.cluster_spec.CONNECT", 1)
    write_small(tmp_path / "archive", 1)
    line = ["run", str(tmp_path / "archive"), "-o", str(tmp_path / "out"), "-b", str(banded)]
    outcome = CliRunner().invoke(app, [*line, "--cluster", f"tcp://127.0.0.1:{free_port()}"])
    assert outcome.exit_code == 1
    assert "Found no Dask scheduler at tcp://127.0.0.1:" in " ".join(outcome.output.split())
    both = CliRunner().invoke(app, [*line, "--cluster", "tcp://127.0.0.1:1", "--workers", "2"])
    assert "Found both --workers and --cluster tcp://127.0.0.1:1; a cluster has workers of its own." in _words(both)
    both = CliRunner().invoke(app, [*line, "--cluster", "cuda", "--workers", "2"])
    assert "Found both --workers and --cluster cuda; there is one for each GPU. Leave --workers out." in _words(both)
    jobs = CliRunner().invoke(app, [*line, "--cluster", "local", "--job", "queue=long"])
    assert "Found --job without --cluster slurm; it sets the resources of SLURM jobs." in _words(jobs)


def _words(outcome: Result) -> str:
    return " ".join(outcome.output.split())


@pytest.mark.parametrize(
    ("cluster", "module", "message"),
    [
        ("slurm", "dask_jobqueue", "Found that dask-jobqueue is not installed; --cluster slurm needs it. Run pip install 'medvit[slurm]'."),
        ("cuda", "dask_cuda", "Found that dask-cuda is not installed; --cluster cuda needs it. Run pip install 'medvit[cuda-cluster]'"),
        ("local", "cryptography", "Found that cryptography is not installed; without it, anybody who reaches the cluster could use it."),
        ("local", "distributed", "Found that distributed is not installed; --cluster needs it. Run pip install 'medvit[distributed]'."),
    ],
)  # fmt: skip
def test_what_is_not_installed_is_named_with_its_extra(cluster, module, message, banded, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, module, None)
    write_small(tmp_path / "archive", 1)
    line = ["run", str(tmp_path / "archive"), "-o", str(tmp_path / "out"), "-b", str(banded), "--cluster", cluster]
    outcome = CliRunner().invoke(app, line)
    assert outcome.exit_code == 1
    assert message in _words(outcome)


def test_the_environment_is_as_it_was(monkeypatch):
    monkeypatch.setenv("KEPT", "1")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = dict(os.environ)
    with restored_environment():
        os.environ.update({"OMP_NUM_THREADS": "1", "KEPT": "2"})
    assert dict(os.environ) == before


def _threads(out: Path) -> set[int]:
    return {json.loads(record.read_text())["settings"]["threads"] for record in (out / "cases").glob("*/*/run.json")}


@pytest.mark.soak
def test_a_cluster_of_this_machine(banded, tmp_path, monkeypatch):
    """Dask's nannies set OMP_NUM_THREADS=1: our workers have their share of the cores, and this process its environment."""
    for n in range(4):
        write_small(tmp_path / "archive" / f"{n}", n)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before, out = dict(os.environ), tmp_path / "out"
    line = ["run", str(tmp_path / "archive"), "-o", str(out), "-b", str(banded), "-ot", "nifti", "--no-preview"]
    outcome = CliRunner().invoke(app, [*line, "--cluster", "local", "--workers", "2"])
    assert outcome.exit_code in (0, 3), outcome.output
    assert dict(os.environ) == before
    assert counts(out) == {"published": 4}
    assert _threads(out) == {max(1, len(os.sched_getaffinity(0)) // 2)}
    assert sum("ahead" in case for case in seconds(out)) >= 1


@pytest.mark.soak
def test_a_cluster_without_workers_ends_the_run(banded, tmp_path, monkeypatch):
    monkeypatch.setattr("medvit_batch.execution.dask_transport._NOBODY", 2.0)
    write_small(tmp_path / "archive", 1)
    line = ["run", str(tmp_path / "archive"), "-o", str(tmp_path / "out"), "-b", str(banded)]
    with _cluster(tmp_path / "cluster", 0) as (address, _):
        outcome = CliRunner().invoke(app, [*line, "--cluster", address])
    assert outcome.exit_code == 1
    assert f"Found no worker at {address} for 2 s; at least one is needed. Start dask worker {address}" in " ".join(
        outcome.output.split()
    )
    assert counts(tmp_path / "out") == {"pending": 1}


@pytest.mark.soak
def test_a_mixed_archive_on_a_cluster_is_as_on_one_machine(banded, tmp_path):
    mixed = make_mixed(tmp_path / "archive")
    with _cluster(tmp_path / "cluster", 2) as (address, _):
        line, env = command("run", mixed.folder, "-o", tmp_path / "out", "-b", banded, "--cluster", address)
        done = subprocess.run(line, env=env, capture_output=True, text=True, timeout=600)
        assert done.returncode == 3, done.stdout + done.stderr
        again = subprocess.run(line, env=env, capture_output=True, text=True, timeout=600)
        assert "0 case(s) to run" in again.stdout
    found = counts(tmp_path / "out")
    assert found["published"] == len(mixed.good) + 1, done.stdout
    assert found["set aside"] == len(mixed.bad)
    names = {name.partition("-")[0] for name in results(tmp_path / "out")}  # a hash follows where it lies in a zip
    assert set(mixed.good.values()) <= names
    assert not any((tmp_path / "out" / "staging").iterdir())


@pytest.mark.soak
def test_a_lost_worker_costs_nothing(banded, tmp_path):
    """One of two workers is killed with its nanny while it is at work: its case is run by the other."""
    for n in range(6):
        write_small(tmp_path / "archive" / f"{n}", n)
    with _cluster(tmp_path / "cluster", 2) as (address, workers):
        line, env = command(
            "run", tmp_path / "archive", "-o", tmp_path / "out", "-b", banded, "-ot", "nifti", "--no-preview", "--cluster", address
        )  # fmt: skip
        run = subprocess.Popen(line, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        until(lambda: counts(tmp_path / "out").get("running", 0) >= 2, run)
        workers[0].kill()
        said, _ = run.communicate(timeout=600)
    assert run.returncode in (0, 3), said
    assert counts(tmp_path / "out") == {"published": 6}, said
