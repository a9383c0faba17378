"""Several windows at once: the same voxels in the same order, and a number that is measured once and recorded."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from medvit.errors import ShapeError
from medvit.inference import SlidingWindow, computing_threads
from medvit.inference.backends import streams as measured
from medvit.inference.backends.streams import fastest_streams

pytest.importorskip("openvino")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDVIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(measured, "_CHOSEN", {})


def _network() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv3d(1, 8, 3, padding=1), nn.InstanceNorm3d(8), nn.GELU(), nn.Conv3d(8, 3, 1))
    return nn.Sequential(*layers).eval()


def test_windows_at_once_give_the_same_voxels_each_time():
    network, image = _network(), torch.rand(1, 1, 40, 24, 24, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode(), computing_threads(4):
        made = {n: SlidingWindow((16,) * 3, 0.5, backend="openvino", streams=n)(image, network) for n in (1, 2, 3)}
        again = SlidingWindow((16,) * 3, 0.5, backend="openvino", streams=3)(image, network)
        wanted = SlidingWindow((16,) * 3, 0.5, backend="eager")(image, network)
    assert torch.equal(made[3], again)
    assert torch.equal(made[1].argmax(1), made[2].argmax(1))
    assert torch.equal(made[1].argmax(1), made[3].argmax(1))
    for logits in made.values():
        assert float((logits - wanted).abs().max()) < 1e-3 * float(wanted.abs().max())


def test_the_number_is_measured_once_on_many_threads_and_the_choice_is_stated(tmp_path: Path):
    network, image = _network(), torch.rand(1, 1, 48, 24, 24)
    chosen = []
    with torch.inference_mode(), computing_threads(4):
        for _ in range(2):
            SlidingWindow((16,) * 3, 0.5, backend="openvino")(image, network, on_backend=chosen.append)
    records = list((tmp_path / "cache" / "openvino").glob("*/streams.json"))
    assert len(records) == 1
    content = json.loads(records[0].read_text())
    assert content["threads"] == 4
    assert list(content["seconds_a_window"]) == ["1", "2"]
    assert {one.streams for one in chosen} == {content["streams"]}
    assert all(("windows at once" in one.reason) == (content["streams"] > 1) for one in chosen)


@pytest.mark.parametrize(("threads", "windows"), [(3, 20), (8, 7)])
def test_nothing_is_measured_on_few_threads_or_for_few_windows(threads: int, windows: int, tmp_path: Path):
    image = torch.rand(1, 1, 16, 16, 8 * (windows + 1))
    with torch.inference_mode(), computing_threads(threads):
        inferer = SlidingWindow((16,) * 3, 0.5, backend="openvino")
        assert inferer.windows(image.shape[2:]) == windows
        inferer(image, _network())
    assert not list((tmp_path / "cache" / "openvino").glob("*/streams.json"))


def _takes(seconds: dict[int, float], compiled: list[int]):
    """Return a function that compiles graphs whose calls take the stated seconds."""

    def compile_for(count: int):
        compiled.append(count)

        def run(windows: Tensor) -> Tensor:
            assert len(windows) == count
            time.sleep(seconds[count])
            return windows

        return run

    return compile_for


@pytest.mark.parametrize(
    ("seconds", "wanted", "tried"),
    [
        ({1: 0.05, 2: 0.12}, 1, [1, 2]),  # two windows take more than twice the time of one
        ({1: 0.05, 2: 0.055, 4: 0.14}, 2, [1, 2, 4]),
        ({1: 0.05, 2: 0.055, 4: 0.06}, 4, [1, 2, 4]),  # 8 threads give no more than four streams
    ],
)
def test_the_fastest_number_is_chosen_and_kept(seconds: dict[int, float], wanted: int, tried: list[int]):
    compiled: list[int] = []
    assert fastest_streams("graph", 8, _takes(seconds, compiled), (1, 1, 2, 2, 2)) == wanted
    assert compiled == tried
    measured._CHOSEN.clear()  # as in another process
    assert fastest_streams("graph", 8, _takes({}, compiled), (1, 1, 2, 2, 2)) == wanted
    assert compiled == tried


def test_memory_bounds_the_number(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MEDVIT_MEMORY_LIMIT", "64MB")
    kept = []

    def compile_for(count: int):
        kept.append(torch.ones(count * 10 * 2**20))  # 40 MB for each stream
        return lambda windows: windows

    assert fastest_streams("large", 64, compile_for, (1, 1, 2, 2, 2)) == 1
    assert len(kept) == 1


def test_fewer_than_one_window_at_once_is_refused():
    with pytest.raises(ShapeError, match=r"Found streams 0; at least one window must run\. Leave it out"):
        SlidingWindow(16, streams=0)
