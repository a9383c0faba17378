"""Jobs of SLURM: what is asked of them is checked, a plan shows their script, and a stand-in for SLURM runs them."""

from __future__ import annotations

import json
import os
import subprocess

import pytest
from medvit_batch.cli import app
from medvit_batch.errors import BatchError
from medvit_batch.execution.slurm import SCHEDULER, read_job
from typer.testing import CliRunner

from tests.batch.archives import command, write_small
from tests.batch.execution.test_dask_cluster import _threads, _words
from tests.batch.execution.test_session import counts, processes, until

pytest.importorskip("distributed", reason="the extra 'distributed' is not installed")


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


def _our_worker_sees(variable: str) -> bool:
    """Return True if a worker that was forked from the fork server of a Dask worker has a variable in its environment."""
    servers = {pid for pid, _, line, _ in processes() if b"multiprocessing.forkserver" in line}
    return any(
        pid in servers and parent in servers and variable.encode() in environment.split(b"\0")
        for pid, parent, _, environment in processes()
    )
