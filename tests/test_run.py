"""The suite's own runner: every file once, and an honest exit status whatever becomes of a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import conftest, run


@pytest.fixture
def files(tmp_path):
    """Four files of two tests each; every test leaves a line."""
    for name in "abcd":
        (tmp_path / f"test_{name}.py").write_text(
            "from pathlib import Path\nimport os, time\n"
            "def _told(what):\n    time.sleep(0.2)\n    Path(__file__).with_suffix('.ran').open('a').write(f'{what} {os.getpid()} ')\n"
            "def test_one(): _told('one')\ndef test_two(): _told('two')\n"
        )
    return tmp_path


@pytest.fixture
def suite(files, monkeypatch, tmp_path, capfd):
    """Run these files as the suite is run: exit status, and what was printed."""
    monkeypatch.setattr(run, "RECORD", tmp_path / "record" / "seconds.json")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(run.ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setattr(run, "ROOT", files)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")

    def started(*options: str) -> tuple[int, str]:
        code = run.main(["-q", "-c", os.devnull, "--rootdir", ".", *options])
        return code, capfd.readouterr().out

    return started


def test_each_test_runs_once_and_a_file_in_one_process(suite, files):
    code, shown = suite()
    assert code == 0, shown
    told = [path.read_text().split() for path in sorted(files.glob("*.ran"))]
    assert [words[::2] for words in told] == [["one", "two"]] * 4
    assert all(words[1] == words[3] for words in told)


def test_what_took_longest_goes_first_the_next_time(suite, files):
    (files / "test_c.py").write_text("import time\ndef test_it(): time.sleep(0.7)\ndef test_long(): time.sleep(1.2)\n")
    assert suite()[0] == 0
    (name,) = json.loads(run.RECORD.read_text())
    assert name.endswith("test_c.py::test_long")
    run.RECORD.write_text(
        json.dumps({name: 9, name.replace("test_c.py::test_long", "test_b.py::test_two"): 99, "gone.py::a": 5})
    )
    code, shown = suite("--collect-only")
    assert code == 0, shown
    order = [line.split("/")[-1] for line in shown.splitlines() if "::" in line]
    assert order[:4] == ["test_b.py::test_one", "test_b.py::test_two", "test_c.py::test_it", "test_c.py::test_long"]
    assert len(json.loads(run.RECORD.read_text())) == 2  # a file that is gone is forgotten


@pytest.mark.parametrize(
    ("body", "code"),
    [("assert False", 1), ("os._exit(0)", 1), ("os.kill(os.getpid(), 9)", -9), ("pytest.exit('enough', 0)", 1)],
    ids=["fails", "leaves", "is killed", "gives up"],
)
def test_a_fault_in_one_process_is_the_outcome(body, code, suite, files):
    (files / "test_a.py").write_text(f"import os, pytest\ndef test_it(): {body}\ndef test_after(): pass\n")
    found, shown = suite()
    assert found == code, shown
    if "assert" in body:
        assert len(list(files.glob("*.ran"))) == 3
    else:
        assert "died" in shown and "test_a.py" in shown.split("died")[1]


def test_nothing_to_run_is_no_success(suite):
    assert suite("-k", "absent")[0] == 5


def test_a_run_that_is_told_to_stop_leaves_no_process(files):
    body = f"import os, time\nopen(r'{files}/' + str(os.getpid()), 'x').close()\ndef test_it(): time.sleep(90)\n"
    (files / "test_a.py").write_text(body)
    command = [sys.executable, "tests/run.py", str(files), "-q", "-c", os.devnull]
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    running = subprocess.Popen(
        command, cwd=run.ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    until = time.monotonic() + 60
    while len(list(files.glob("test_b.ran"))) < 1 or len(_numbers(files)) < 2:
        assert time.monotonic() < until and running.poll() is None
        time.sleep(0.1)
    running.terminate()
    assert b"KeyboardInterrupt" in running.communicate(timeout=60)[1]
    assert running.returncode != 0
    for number in _numbers(files):
        with pytest.raises(ProcessLookupError):
            os.kill(number, 0)


def _numbers(folder: Path) -> list[int]:
    return [int(path.name) for path in folder.iterdir() if path.name.isdecimal()]


def test_what_is_kept_between_runs_is_another_folder_after_a_change(tmp_path, monkeypatch):
    monkeypatch.setattr(conftest, "ROOT", tmp_path)
    source = tmp_path / "medvit" / "kernels" / "deep" / "cpu.py"
    source.parent.mkdir(parents=True)
    source.write_text("a = 1\n")
    first = conftest._kept("numba", "kernels")
    assert conftest._kept("numba", "kernels") == first
    source.write_text("a = 2\n")
    assert conftest._kept("numba", "kernels") != first
    found = {conftest._kept("numba", "kernels") for n in range(6) if source.write_text(f"a = {n}\n")}
    assert len(found) == 6
    assert len(list(first.parent.iterdir())) == 3
    with pytest.raises(AssertionError, match="medvit/networks has no source files"):
        conftest._kept("graphs", "kernels", "networks")
