"""The fork server: workers have their libraries from the start, inherit what they should, and are spawned where it cannot serve.

A process has one fork server, so each test has a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from medvit_batch.execution.fork_server import IN_FORK_SERVER

from tests.batch.archives import command, write_small

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux alone")

_MAIN = """
import os, signal, sys, time
from medvit_batch.execution.fork_server import THREAD_VARIABLES
from tests.batch.runs import described, describers, job, next_end

def main():
{body}

if __name__ == "__main__":
    main()
"""


def _run(folder: Path, body: str, **environment: str) -> None:
    """Run the body of a program in a process of its own; it must end well."""
    program = folder / "program.py"
    program.write_text(_MAIN.format(body=body.strip("\n")))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    done = subprocess.run(
        [sys.executable, str(program)], env=env, cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


def test_a_replaced_worker_has_its_libraries_from_the_start(tmp_path):
    folder = tmp_path / "folder of the user"
    folder.mkdir()
    (folder / "monai.py").write_text("raise RuntimeError('found in the folder of the user')")
    body = f"""
    os.chdir({str(folder)!r})
    os.environ.pop("OMP_WAIT_POLICY", None)
    dispatcher = describers(threads=1)
    first, second = described(dispatcher), described(dispatcher)
    assert first["pid"] != second["pid"]
    assert first["parent"] == second["parent"] != os.getpid()
    for worker in (first, second):
        assert all(worker["loaded"].values()), worker
        assert (worker["threads"], worker["cuda"]) == (1, False)
        assert worker["environment"] == {{**os.environ, **dict.fromkeys(THREAD_VARIABLES, "1")}}
        assert worker["environment"]["OMP_WAIT_POLICY"] == "PASSIVE"
    """
    _run(tmp_path, body)


def test_a_forked_worker_leaves_nothing_to_clean_up(tmp_path, banded):
    """A named lock of a library would be left behind when its worker is killed, and the clean-up reported on standard error.

    The worker takes the number of threads of ``--threads``, which no worker of this machine has by itself.
    """
    count = (os.cpu_count() or 1) + 1
    write_small(tmp_path / "archive", 1)
    line, env = command(
        "run", tmp_path / "archive", "-o", tmp_path / "out", "-b", banded, "-ot", "nifti", "--no-preview"
    )
    line = [*line, "--quiet", "--threads", str(count)]
    done = subprocess.run(line, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode in (0, 3), done.stderr
    assert done.stderr == ""
    records = [json.loads(file.read_text()) for file in (tmp_path / "out" / "cases").glob("*/*/run.json")]
    assert [record["settings"]["threads"] for record in records] == [count]


def test_a_worker_that_needs_another_environment_is_spawned(tmp_path):
    body = """
    assert described(describers(threads=1))["parent"] != os.getpid()
    os.environ["CUDA_VISIBLE_DEVICES"] = "7"
    for threads in (1, 2):
        spawned = described(describers(threads=threads))
        assert spawned["parent"] == os.getpid()
        assert not any(spawned["loaded"].values()), spawned
        assert spawned["threads"] == threads
        assert spawned["environment"]["CUDA_VISIBLE_DEVICES"] == "7"
    """
    _run(tmp_path, body)


def test_workers_go_on_although_their_fork_server_was_killed(tmp_path):
    body = """
    dispatcher = describers()
    server = described(dispatcher)["parent"]
    assert server != os.getpid()
    os.kill(server, signal.SIGKILL)
    described(dispatcher)  # spawned, where the server is just being killed
    assert described(dispatcher)["parent"] not in (server, os.getpid())
    """
    _run(tmp_path, body)


def test_a_worker_ends_with_its_fork_server(tmp_path):
    body = """
    dispatcher = describers()
    dispatcher.give(job(1, "waits"))
    end = next_end(dispatcher)
    assert (end.kind, end.detail) == ("crashed", "it was ended by the end of the fork server"), end
    """
    _run(tmp_path, body)


def test_no_fork_server_where_its_socket_cannot_be(tmp_path):
    """The path of a socket is short; then workers are spawned."""
    long = tmp_path / ("long" * 30)
    long.mkdir()
    _run(tmp_path, "    assert described(describers())['parent'] == os.getpid()", TMPDIR=str(long))


def test_what_the_fork_server_loads_leaves_the_gpu_alone(tmp_path):
    body = """
    import torch
    def touched(*_): raise AssertionError("CUDA was asked")
    for name in ("_cuda_getDeviceCount", "_cuda_init"):
        setattr(torch._C, name, touched)
    torch.cuda.is_available = torch.cuda.device_count = touched
    import medvit_batch.execution.fork_server_preload
    assert "medvit.inference.loaded_bundle" in sys.modules
    """
    _run(tmp_path, body, **{IN_FORK_SERVER: "1"})
