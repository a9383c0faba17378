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
from medvit_batch.errors import BatchError
from medvit_batch.execution.environment import restored_environment
from medvit_batch.execution.slurm import SCHEDULER, read_job
from typer.testing import CliRunner

from tests.batch.archives import command, make_mixed, write_small
from tests.batch.execution.test_session import counts, processes, results, seconds, until
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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("colour=red", "Found --job 'colour=red'; name=value is needed, with a name of account, cores, gres"),
        ("queue=", "Found --job 'queue='; name=value is needed"),
        ("cores=0", "Found --job cores=0; a whole number from 1 is needed"),
        ("memory=much", "Found --job memory=much; a size such as 16GB is needed"),
        ("prologue=a\nb", "Found --job 'prologue=a"),
    ],
)
def test_what_is_asked_of_a_job_is_checked(words, message):
    with pytest.raises(BatchError) as raised:
        read_job((words,))
    assert message in str(raised.value)


_JOB = (
    "--job", "queue=gpu", "--job", "account=radiology", "--job", "walltime=08:00:00", "--job", "cores=8", "--job", "memory=32GB",
    "--job", "gres=gpu:1", "--job", "prologue=module load python/3.11",
)  # fmt: skip


def test_a_plan_shows_the_script_of_its_jobs(banded, tmp_path, monkeypatch):
    jobqueue = pytest.importorskip("dask_jobqueue", reason="the extra 'slurm' is not installed")
    monkeypatch.setenv("PATH", str(tmp_path))  # there is no sbatch
    write_small(tmp_path / "archive", 1)
    out = tmp_path / "out"
    line = [
        "run",
        str(tmp_path / "archive"),
        "-o",
        str(out),
        "-b",
        str(banded),
        "--cluster",
        "slurm",
        "--workers",
        "3",
        *_JOB,
    ]
    outcome = CliRunner().invoke(app, [*line, "--dry-run"])
    assert outcome.exit_code == 0, outcome.output
    assert "Each of 3 job(s):" in outcome.output
    script = outcome.output.partition("Each of 3 job(s):")[2].strip()
    lines = script.splitlines()
    assert lines[0].startswith("#!")
    for wanted in (
        "#SBATCH -J medvit", "#SBATCH -p gpu", "#SBATCH -A radiology", "#SBATCH -n 1", "#SBATCH --cpus-per-task=8", "#SBATCH --mem=30G",
        "#SBATCH -t 08:00:00", "#SBATCH --gres=gpu:1", "module load python/3.11", f"#SBATCH -e {out}/jobs/medvit-%J.err",
    ):  # fmt: skip
        assert wanted in lines, (wanted, script)
    (worker,) = (text for text in lines if "distributed.cli.dask_worker" in text)
    assert " --nthreads 8 " in worker
    assert "--nworkers" not in worker
    with jobqueue.SLURMCluster(  # the script that it submits
        cores=8, processes=1, memory="32GB", queue="gpu", account="radiology", walltime="08:00:00", job_name="medvit",
        job_extra_directives=["--gres=gpu:1"], job_script_prologue=["module load python/3.11"],
        log_directory=str(tmp_path / "logs"), scheduler_options={"dashboard_address": "127.0.0.1:0"},
    ) as cluster:  # fmt: skip
        own = (
            cluster.job_script()
            .replace(str(tmp_path / "logs"), f"{out}/jobs")
            .replace(cluster.scheduler_address, SCHEDULER)
        )
    assert script == own.replace(" --name dummy-name ", " --name medvit-0 ").strip()
    assert not out.exists()
    as_json = CliRunner().invoke(app, [*line, "--dry-run", "--json"])
    assert json.loads(as_json.stdout)["job_script"].strip() == script
    assert not out.exists()


@pytest.mark.parametrize(
    ("sbatch", "message"),
    [
        ("", "Found no sbatch on the PATH; --cluster slurm submits its jobs with it."),
        ("#!/bin/bash\necho Secret >&2; exit 1\n", "Found that SLURM took none of 2 job(s); sbatch must accept them."),
    ],
)
def test_a_batch_system_that_takes_no_job_is_told(sbatch, message, banded, tmp_path, monkeypatch):
    pytest.importorskip("dask_jobqueue", reason="the extra 'slurm' is not installed")
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}/bin" if sbatch else str(tmp_path / "bin"))
    if sbatch:
        (tmp_path / "bin" / "sbatch").write_text(sbatch)
        (tmp_path / "bin" / "sbatch").chmod(0o755)
    write_small(tmp_path / "archive", 1)
    line = ["run", str(tmp_path / "archive"), "-o", str(tmp_path / "out"), "-b", str(banded), "--cluster", "slurm"]
    outcome = CliRunner().invoke(app, [*line, "--workers", "2", "--job", "interface=lo"])
    assert outcome.exit_code == 1
    assert message in _words(outcome)
    assert "Traceback" not in outcome.output
    jobs = tmp_path / "out" / "jobs"
    assert not jobs.exists() or not list(jobs.iterdir())  # certificates went with the cluster


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


_SBATCH = """#!/bin/bash
echo "$1" >> "{folder}/submitted"; cat "$1" > "{folder}/script"
CUDA_VISIBLE_DEVICES=7 setsid bash "{folder}/script" > "{folder}/job.log" 2>&1 &
echo "Submitted batch job $!"
"""
_SCANCEL = '#!/bin/bash\necho "$1" >> "{folder}/cancelled"; kill -- "-$1"\n'


@pytest.mark.soak
def test_jobs_of_a_batch_system(banded, tmp_path, monkeypatch):
    """With a stand-in for SLURM's commands, which runs the script of a job on this machine."""
    pytest.importorskip("dask_jobqueue", reason="the extra 'slurm' is not installed")
    commands = tmp_path / "commands"
    commands.mkdir()
    for name, text in (("sbatch", _SBATCH), ("scancel", _SCANCEL)):
        (commands / name).write_text(text.format(folder=commands))
        (commands / name).chmod(0o755)
    for n in range(3):
        write_small(tmp_path / "archive" / f"{n}", n)
    out, (line, env) = (
        tmp_path / "out",
        command("run", tmp_path / "archive", "-o", tmp_path / "out", "-b", banded, "-ot", "nifti"),
    )
    line += ["--cluster", "slurm", "--job", "cores=2", "--job", "memory=4GB", "--job", "interface=lo"]
    env["PATH"] = f"{commands}{os.pathsep}{env['PATH']}"
    run = subprocess.Popen(line, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    until(lambda: _our_worker_sees("CUDA_VISIBLE_DEVICES=7"), run)
    assert run.poll() is None
    said, _ = run.communicate(timeout=600)
    assert run.returncode in (0, 3), said + (commands / "job.log").read_text()
    assert counts(out) == {"published": 3}
    assert len((commands / "submitted").read_text().split()) == 1
    assert len((commands / "cancelled").read_text().split()) == 1
    script = (commands / "script").read_text()
    assert "tls://" in script
    assert "--tls-key" in script
    assert _threads(out) == {2}  # what the job was given
    assert not list((out / "jobs").glob(".keys-*"))


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


def _our_worker_sees(variable: str) -> bool:
    """Return True if a worker that was forked from the fork server of a Dask worker has a variable in its environment."""
    servers = {pid for pid, _, line, _ in processes() if b"multiprocessing.forkserver" in line}
    return any(
        pid in servers and parent in servers and variable.encode() in environment.split(b"\0")
        for pid, parent, _, environment in processes()
    )
