"""Workers: what one case does to its process costs that case alone, and no worker outlives its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from medvit_batch.cases import State
from medvit_batch.execution.worker_pool import Event, Pool

from tests.batch.runs import behave, job, note_and_wait

_PATIENCE = 60.0


def _until(pool: Pool, count: int) -> list[Event]:
    """The first ``count`` ends of cases."""
    found: list[Event] = []
    until = time.monotonic() + _PATIENCE
    while len(found) < count and time.monotonic() < until:
        for event in pool.wait(0.2):
            if event.what == "input":
                event.worker.answer(True)
            elif event.what != "stage":
                found.append(event)
    return found


@pytest.fixture
def pool():
    made = Pool(1, time_limit=1.5, threads=1, run=behave)
    yield made
    made.stop()


def test_a_worker_is_kept_from_case_to_case(pool):
    pids = set()
    for n in range(3):
        pool.give(job(n, "fine"))
        (event,) = _until(pool, 1)
        assert (event.what, event.content.state, event.job.case) == ("done", State.CHECKED, n)
        pids.add(event.content.reason)
    assert len(pids) == 1


def test_crash_hang_and_exit_cost_one_case_each(pool):
    ends = {}
    for n, name in enumerate(["segfault", "fine", "exit", "hang", "broken", "fine"]):
        pool.give(job(n, name))
        (event,) = _until(pool, 1)
        ends[n] = (event.what, event.content if event.what in ("crashed", "timed_out") else event.content.state)
        assert pool.idle() == 1
    assert ends == {
        0: ("crashed", "it was ended by SIGSEGV"),
        1: ("done", State.CHECKED),
        2: ("crashed", "it ended with exit code 7"),
        3: ("timed_out", "infer"),
        4: ("done", State.FAILED),
        5: ("done", State.CHECKED),
    }


def test_a_worker_that_died_while_idle_is_replaced(pool):
    pool.give(job(1, "fine"))
    (event,) = _until(pool, 1)
    os.kill(int(event.content.reason), signal.SIGKILL)
    time.sleep(0.3)
    pool.give(job(2, "fine"))
    (event,) = _until(pool, 1)
    assert (event.what, event.job.case) == ("done", 2)


def test_a_worker_asks_before_it_goes_on(pool):
    pool.give(job(1, "ask"))
    (event,) = _until(pool, 1)
    assert event.content.reason == "True"


def test_workers_that_cannot_start_end_the_run(pool, monkeypatch):
    from medvit_batch.errors import BatchError

    monkeypatch.setattr("medvit_batch.execution.worker_handle.serve", os._exit)
    pool.give(job(1, "fine"))
    with pytest.raises(BatchError, match="Found 3 workers in a row that died while they started.*Run medvit doctor"):
        for _ in range(200):
            for event in pool.wait(0.2):
                assert event.what == "start_failed"
                pool.give(event.job)


_PARENT = """
import sys, time
from pathlib import Path
from medvit_batch.execution.worker_pool import Pool
from tests.batch.runs import job, note_and_wait
if __name__ == "__main__":
    pool = Pool(2, 600, 1, note_and_wait)
    for n in range(2):
        pool.give(job(n, "x", Path(sys.argv[1])))
    while True:
        pool.wait(0.1)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_workers_end_with_their_parent_however_it_ends(how, tmp_path):
    (tmp_path / "parent.py").write_text(_PARENT)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen([sys.executable, str(tmp_path / "parent.py"), str(tmp_path)], env=env)
    try:
        pids = [_pid(tmp_path / f"pid-{n}") for n in range(2)]
    finally:
        parent.send_signal(how)
        parent.wait()
    until = time.monotonic() + 20
    while any(_alive(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.05)
    assert not [pid for pid in pids if _alive(pid)]


def _pid(path: Path) -> int:
    until = time.monotonic() + _PATIENCE
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < until
        time.sleep(0.05)
    return int(path.read_text())


def _alive(pid: int) -> bool:
    try:
        return (
            Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
            if Path("/proc/self").exists()
            else os.kill(pid, 0) is None
        )
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_the_thread_that_watches_the_parent_works_without_the_kernel(tmp_path, monkeypatch):
    """As on a system without prctl."""
    (tmp_path / "parent.py").write_text(
        _PARENT.replace("from tests", "import medvit_batch.parent_watch\nsys.platform = 'other'\nfrom tests")
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen([sys.executable, str(tmp_path / "parent.py"), str(tmp_path)], env=env)
    pids = [_pid(tmp_path / f"pid-{n}") for n in range(2)]
    parent.kill()
    parent.wait()
    until = time.monotonic() + 20
    while any(_alive(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.05)
    assert not [pid for pid in pids if _alive(pid)]


assert note_and_wait  # named in the program above
