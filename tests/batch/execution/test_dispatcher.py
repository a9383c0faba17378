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
from medvit_batch.execution.dispatcher import Dispatcher
from medvit_batch.execution.messages import EndKind
from medvit_batch.execution.pipe_transport import PipeTransport

from tests import warm
from tests.batch.runs import behave, job, next_end, note_and_wait

_PATIENCE = 60.0


@pytest.fixture
def dispatcher():
    made = Dispatcher(PipeTransport(1, threads=1, run=behave), time_limit=1.5)
    yield made
    made.stop()


def test_a_worker_is_kept_from_case_to_case(dispatcher):
    pids = set()
    for n in range(3):
        dispatcher.give(job(n, "fine"))
        event = next_end(dispatcher)
        assert (event.kind, event.outcome.state, event.case) == (EndKind.DONE, State.CHECKED, n)
        pids.add(event.outcome.reason)
    assert len(pids) == 1


def test_crash_hang_and_exit_cost_one_case_each(dispatcher):
    ends = {}
    for n, name in enumerate(["segfault", "fine", "exit", "hang", "broken", "fine"]):
        dispatcher.give(job(n, name))
        event = next_end(dispatcher)
        ends[n] = (event.kind, event.detail or (event.outcome.state if event.outcome else event.stage))
        assert dispatcher.idle() == 1
    assert ends == {
        0: (EndKind.CRASHED, "it was ended by SIGSEGV"),
        1: (EndKind.DONE, State.CHECKED),
        2: (EndKind.CRASHED, "it ended with exit code 7"),
        3: (EndKind.TIMED_OUT, "infer"),
        4: (EndKind.DONE, State.FAILED),
        5: (EndKind.DONE, State.CHECKED),
    }


def test_a_worker_that_died_while_idle_is_replaced(dispatcher):
    dispatcher.give(job(1, "fine"))
    event = next_end(dispatcher)
    os.kill(int(event.outcome.reason), signal.SIGKILL)
    time.sleep(0.3)
    dispatcher.give(job(2, "fine"))
    event = next_end(dispatcher)
    assert (event.kind, event.case) == (EndKind.DONE, 2)


def test_a_worker_asks_before_it_goes_on(dispatcher):
    dispatcher.give(job(1, "ask"))
    event = next_end(dispatcher)
    assert event.outcome.reason == "True"


def test_workers_that_cannot_start_end_the_run(dispatcher, monkeypatch):
    from medvit_batch.errors import BatchError

    monkeypatch.setattr("medvit_batch.execution.pipe_transport.serve", os._exit)
    dispatcher.give(job(1, "fine"))
    with pytest.raises(BatchError, match="Found 3 workers in a row that ended while they started.*Run medvit doctor"):
        for _ in range(200):
            for event in dispatcher.wait(0.2):
                assert (event.case, event.kind) == (1, EndKind.START_FAILED)
                dispatcher.give(job(1, "fine"))


_PARENT = """
import sys, time
from pathlib import Path
from medvit_batch.execution.dispatcher import Dispatcher
from medvit_batch.execution.pipe_transport import PipeTransport
from tests.batch.runs import job, note_and_wait
if __name__ == "__main__":
    dispatcher = Dispatcher(PipeTransport(2, threads=1, run=note_and_wait), 600)
    for n in range(2):
        dispatcher.give(job(n, "x", Path(sys.argv[1])))
    while True:
        dispatcher.wait(0.1)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_workers_end_with_their_parent_however_it_ends(how, tmp_path):
    (tmp_path / "parent.py").write_text(_PARENT)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    parent = warm.Popen([sys.executable, str(tmp_path / "parent.py"), str(tmp_path)], env=env)
    try:
        pids = [pid for n in range(2) for pid in _pids(tmp_path / f"pid-{n}")]
    finally:
        parent.send_signal(how)
        parent.wait()
    until = time.monotonic() + 20
    while any(_alive(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.05)
    assert not [pid for pid in pids if _alive(pid)]


def _pids(path: Path) -> list[int]:
    """A worker and the process that made it."""
    until = time.monotonic() + _PATIENCE
    while not path.exists():
        assert time.monotonic() < until
        time.sleep(0.05)
    return [int(pid) for pid in path.read_text().split()]


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
    pids = [pid for n in range(2) for pid in _pids(tmp_path / f"pid-{n}")]
    parent.kill()
    parent.wait()
    until = time.monotonic() + 20
    while any(_alive(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.05)
    assert not [pid for pid in pids if _alive(pid)]


assert note_and_wait  # named in the program above
