"""Copies of a process that has loaded torch behave as processes of their own: arguments, streams, environment, folder, end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import warm

_TELL = "import json, os, sys; print(json.dumps([sys.argv, os.getcwd(), os.environ.get('COPY')])); sys.exit(3)"


@pytest.mark.parametrize("run", [subprocess.run, warm.run], ids=["process", "copy"])
def test_a_program_has_its_arguments_its_folder_its_environment_and_its_end(run, tmp_path):
    environment = os.environ | {"COPY": "yes"}
    line = [sys.executable, "-c", _TELL, "first", "second"]
    done = run(line, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout == f'[["-c", "first", "second"], "{tmp_path}", "yes"]\n'
    assert (done.returncode, done.stderr) == (3, "")
    (tmp_path / "program.py").write_text(f"import beside\n{_TELL}")
    (tmp_path / "beside.py").touch()
    line = [sys.executable, str(tmp_path / "program.py"), "first"]
    done = run(line, env={k: v for k, v in environment.items() if k != "COPY"}, capture_output=True, text=True)
    assert done.stdout == f'[["{tmp_path / "program.py"}", "first"], "{Path.cwd()}", null]\n'
    with pytest.raises(subprocess.CalledProcessError, match="returned non-zero exit status 3"):
        run(line, check=True, capture_output=True)
    done = run([sys.executable, "-m", "beside", "first"], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0


@pytest.mark.parametrize("start", [subprocess.Popen, warm.Popen], ids=["process", "copy"])
def test_a_program_is_written_to_fails_and_is_stopped(start):
    line = [sys.executable, "-c", "import sys; sys.stdout.write(sys.stdin.read()); raise ValueError('mistake')"]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with start(line, text=True, **pipes) as process:
        assert process.poll() is None
        out, err = process.communicate("words", timeout=60)
    assert (out, process.returncode) == ("words", 1)
    assert err.startswith("Traceback")
    assert err.endswith("ValueError: mistake\n")
    line = [sys.executable, "-c", "import time; print('ready', flush=True); time.sleep(600)"]
    for stop, end in (
        (signal.SIGTERM, -signal.SIGTERM),
        (signal.SIGINT, -signal.SIGINT),
        (signal.SIGKILL, -signal.SIGKILL),
    ):
        with start(line, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            assert process.stdout.readline() == "ready\n"
            with pytest.raises(subprocess.TimeoutExpired, match="timed out"):
                process.wait(0.01)
            process.send_signal(stop)
            assert process.wait(60) == end


@pytest.mark.skipif(sys.platform != "linux", reason="programs are copies on Linux alone")
def test_a_copy_finds_torch_loaded_with_the_threads_that_it_asks_for_and_numbers_of_its_own():
    program = "import sys; loaded = 'torch' in sys.modules; import numpy, torch; print(loaded, torch.get_num_threads(), numpy.random.rand())"
    told = [
        warm.run(
            [sys.executable, "-c", program], env=os.environ | {"OMP_NUM_THREADS": threads}, capture_output=True
        ).stdout.split()
        for threads in ("1", "3")
    ]
    assert [words[:2] for words in told] == [[b"True", b"1"], [b"True", b"3"]]
    assert told[0][2] != told[1][2]
