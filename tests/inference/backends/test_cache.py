"""The cache of converted networks: damaged entries are replaced, and of two writers the first one's entry is kept."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import filelock
import pytest
import torch
from torch import nn

from medvit.bundles import WEIGHTS_ATTRIBUTE
from medvit.errors import BackendError
from medvit.inference.backends import BackendRequest, select_backend
from medvit.inference.backends.cache import estimate, get_or_build
from medvit.progress import Cancelled, Progress
from medvit.user_folders import cache_folder
from tests.inference.test_backends import Small


@pytest.mark.parametrize("spoil", ["cut", "gone", "record"])
def test_a_corrupt_cache_is_made_again(spoil, tmp_path, monkeypatch):
    openvino = pytest.importorskip("openvino")
    assert openvino
    from medvit.inference.backends import openvino as backend

    monkeypatch.setenv("MEDVIT_CACHE", str(tmp_path))
    monkeypatch.setattr(backend, "_HELD", 0)
    torch.manual_seed(0)
    network, window = Small(), torch.rand(1, 1, 16, 16, 16)
    with torch.inference_mode():
        wanted = backend.graph_of(network, window)(window).clone()
        (entry,) = (path.parent for path in (tmp_path / "openvino").glob("*/made.json"))
        path = entry / {"cut": "graph.bin", "gone": "graph.xml", "record": "made.json"}[spoil]
        if spoil == "gone":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:-3])
        assert torch.equal(backend.graph_of(network, window)(window), wanted)
    assert [p for p in (tmp_path / "openvino").iterdir() if p.is_dir()] == [entry]
    assert json.loads((entry / "made.json").read_text())["files"].keys() == {"graph.bin", "graph.xml"}


def test_what_fails_while_it_is_made_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDVIT_CACHE", str(tmp_path))

    def stop(aside):
        (aside / "half").write_text("a")
        raise BackendError("no")

    with pytest.raises(BackendError, match="no"):
        get_or_build("kind", "key", stop)
    assert not [*tmp_path.rglob("half")]
    monkeypatch.setenv("MEDVIT_CACHE", str(tmp_path / "file" / "below"))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BackendError, match="set MEDVIT_CACHE to another folder, or use backend=.eager."):
        get_or_build("kind", "key", lambda aside: {})


def test_where_files_cannot_be_locked_the_record_of_the_first_process_counts(tmp_path, monkeypatch):
    """It holds the measured speed, by which both choose between graph and network."""
    monkeypatch.setenv("MEDVIT_CACHE", str(tmp_path))

    def refuse(self):
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr(filelock.FileLock, "_acquire", refuse)

    def quick(aside):
        (aside / "graph").write_text("graph")
        return {"ratio": 1.5}

    def slow(aside):
        get_or_build("kind", "key", quick)  # as another process would meanwhile
        (aside / "graph").write_text("graph")
        return {"ratio": 0.9}

    assert get_or_build("kind", "key", slow)[1] == get_or_build("kind", "key", slow)[1] == {"ratio": 1.5}


BUILD = """
import sys, time
from medvit.inference.backends.cache import get_or_build
from medvit.progress import Progress

def make(aside):
    print("makes", flush=True)
    sys.stdin.readline()
    (aside / "graph").write_text("graph")
    return {"by": sys.argv[1]}

print(get_or_build("kind", "key", make, Progress(announce=lambda text: print(text, flush=True)))[1]["by"])
"""


def test_of_two_first_runs_at_once_one_prepares_and_the_other_waits(tmp_path):
    told = os.environ | {"MEDVIT_CACHE": str(tmp_path)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": told}
    first, second = (subprocess.Popen([sys.executable, "-c", BUILD, name], **pipes) for name in ("1", "2"))
    lines = {process: process.stdout.readline() for process in (first, second)}
    maker, waiter = sorted((first, second), key=lambda process: lines[process] != "makes\n")
    assert lines[maker] == "makes\n"
    assert lines[waiter] == "Waiting for another process, which prepares the network for this machine\n"
    out = maker.communicate("go on\n")[0]
    assert waiter.communicate()[0] == out == ("1\n" if maker is first else "2\n")
    third = subprocess.Popen([sys.executable, "-c", BUILD, "3"], **pipes)
    assert third.communicate()[0] == out


def test_a_wait_for_another_process_can_be_cancelled(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDVIT_CACHE", str(tmp_path))
    (tmp_path / "locks").mkdir()
    progress = Progress(announce=lambda text: progress.cancel())
    with filelock.FileLock(tmp_path / "locks" / "kind-key.lock"), pytest.raises(Cancelled):
        get_or_build("kind", "key", lambda aside: {}, progress)


def test_a_graph_of_another_version_is_not_used(tmp_path, monkeypatch):
    pytest.importorskip("openvino", reason="there is no OpenVINO for this platform")
    from medvit.inference.backends import openvino as backend

    monkeypatch.setenv("MEDVIT_CACHE", str(tmp_path))
    network, window, told = Small(), torch.rand(1, 1, 16, 16, 16), []
    progress = Progress(announce=told.append)
    for version, preparations in (("0.0.1", 1), ("0.0.1", 1), ("0.0.2", 2)):
        monkeypatch.setattr(backend, "__version__", version)
        backend.graph_of(network, window, progress=progress)
        assert len(told) == preparations
    assert len([*(tmp_path / "openvino").glob("*/made.json")]) == 2
    assert all(re.fullmatch(r"Preparing the network for this machine \(once, about \d+ s\)", text) for text in told)


def test_an_estimate_follows_what_other_entries_took_on_this_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDVIT_CACHE", str(tmp_path))
    assert estimate("kind", 8.0) == 8.0
    for n, seconds in enumerate((4.0, 6.0, 30.0)):

        def make(aside, seconds=seconds):
            (aside / "graph").write_text("graph")
            return {"seconds": seconds, "expected": 2.0}

        get_or_build("kind", str(n), make)
    (tmp_path / "kind" / "older").mkdir()
    (tmp_path / "kind" / "older" / "made.json").write_text('{"facts": {}}')
    assert estimate("kind", 8.0) == 24.0


def test_a_cache_that_cannot_be_written_leaves_auto_with_eager_and_the_reason(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("MEDVIT_CACHE", str(tmp_path / "file" / "below"))
    network = Small()
    network.more = nn.Parameter(torch.zeros(10**6))
    setattr(network, WEIGHTS_ATTRIBUTE, "0" * 64)
    chosen = select_backend(network, torch.rand(1, 1, 16, 16, 16), BackendRequest(windows=9))
    assert chosen.backend == "eager"
    assert re.search(r"no graph: .*in the cache .*file.below.*set MEDVIT_CACHE to another folder", chosen.reason)


def test_the_cache_lets_the_oldest_go(tmp_path, monkeypatch):
    from medvit.inference.backends import cache

    monkeypatch.setenv("MEDVIT_CACHE", str(tmp_path))
    monkeypatch.setattr(cache, "_LIMIT", 2500)
    made = []

    def make(aside):
        made.append(aside)
        (aside / "graph").write_bytes(b"0" * 1000)
        return {}

    for n, key in enumerate("abc"):
        entry, _ = get_or_build("kind", key, make)
        if key != "c":
            import os

            os.utime(entry / "made.json", (n, n))
    assert sorted(p.name for p in (tmp_path / "kind").iterdir()) == ["b", "c"]
    get_or_build("kind", "c", make)
    assert len(made) == 3


def test_the_cache_lies_where_a_platform_keeps_such_files(monkeypatch, tmp_path):
    monkeypatch.delenv("MEDVIT_CACHE")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "medvit"
