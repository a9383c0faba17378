"""The cache of converted networks: damaged entries are replaced, and of two writers the first one's entry is kept."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from medvit.errors import BackendError
from medvit.inference.backends.cache import get_or_build
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
        (entry,) = (tmp_path / "openvino").iterdir()
        path = entry / {"cut": "graph.bin", "gone": "graph.xml", "record": "made.json"}[spoil]
        if spoil == "gone":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:-3])
        assert torch.equal(backend.graph_of(network, window)(window), wanted)
    assert [p.name for p in (tmp_path / "openvino").iterdir()] == [entry.name]
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


def test_of_two_processes_that_make_an_entry_at_once_the_record_of_the_first_counts(tmp_path, monkeypatch):
    """It holds the measured speed, by which both choose between graph and network."""
    monkeypatch.setenv("MEDVIT_CACHE", str(tmp_path))

    def quick(aside):
        (aside / "graph").write_text("graph")
        return {"ratio": 1.5}

    def slow(aside):
        get_or_build("kind", "key", quick)  # as another process would meanwhile
        (aside / "graph").write_text("graph")
        return {"ratio": 0.9}

    assert get_or_build("kind", "key", slow)[1] == get_or_build("kind", "key", slow)[1] == {"ratio": 1.5}


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
