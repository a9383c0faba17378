"""What runs a network: the same numbers by each backend, refusals that say what to do, a cache that mends itself."""

from __future__ import annotations

import copy
import json
import os
import sys

import pytest
import torch
from torch import nn

from medvit.bundles import WEIGHTS_ATTRIBUTE
from medvit.errors import BackendError, ImageError, MemoryShortError, ShapeError
from medvit.inference import SlidingWindow
from medvit.inference.backends import BackendRequest, select_backend
from medvit.inference.backends import torch_compile as compiled
from medvit.inference.backends.export_norm import as_recorded
from medvit.inference.backends.network_fingerprint import fingerprint
from medvit.progress import Progress
from medvit.segmentation import SwinUNETR
from tests import warm

ROI = (32, 32, 64)


class Small(nn.Module):
    """Convolution, instance norm and GELU; in evaluation mode."""

    def __init__(self, classes: int = 3, width: int = 4) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv3d(1, width, 3, padding=1),
            nn.InstanceNorm3d(width, affine=True),
            nn.GELU(),
            nn.Conv3d(width, classes, 1),
        )
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.layers(x)
        return made


@pytest.fixture(scope="module")
def swin() -> SwinUNETR:
    torch.manual_seed(0)
    network = SwinUNETR(1, 4, feature_size=12).eval()
    with torch.no_grad():  # tables and biases that are not zero, so that what reads them wrongly shows
        for name, value in network.named_parameters():
            if name.endswith(("bias_table", ".bias")):
                value.normal_(std=0.2)
    return network


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    return torch.rand(1, 1, 40, 32, 64, generator=torch.Generator().manual_seed(1))


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def test_an_openvino_graph_gives_the_networks_own_logits(swin, image, tmp_path, monkeypatch):
    pytest.importorskip("openvino")
    monkeypatch.setenv("MEDVIT_CACHE", str(tmp_path))
    progress, told = Progress(), []
    with torch.inference_mode():
        wanted = SlidingWindow(ROI, 0.5, backend="eager")(image, swin)
        inferer = SlidingWindow(ROI, 0.5, backend="openvino", sw_batch_size=2)
        found = inferer(image, swin, progress=progress, on_backend=told.append)
    assert relative(found, wanted) < 1e-4
    assert float((found.argmax(1) == wanted.argmax(1)).float().mean()) > 0.9999
    assert [(chosen.backend, chosen.precision, chosen.reason) for chosen in told] == [("openvino", "fp32", "asked for")]
    assert "prepare" in progress.seconds
    (record,) = tmp_path.glob("openvino/*/made.json")
    facts = json.loads(record.read_text())["facts"]
    assert facts["difference"] < 1e-3
    assert facts["ratio"] > 0
    # the masks of shifted windows as tables would be many times the weights
    assert sum(file.stat().st_size for file in record.parent.iterdir()) < 60e6


def test_bf16_is_near_and_is_not_fp32(image):
    pytest.importorskip("openvino")
    from medvit.inference.backends.openvino import _capabilities

    torch.manual_seed(0)
    network = Small()
    if "BF16" not in _capabilities():
        with pytest.raises(BackendError, match="does not compute in bf16; leave the precision out"):
            SlidingWindow(ROI, 0.5, precision="bf16")(image, network)
        return
    told = []
    with torch.inference_mode():
        wanted = SlidingWindow(ROI, 0.5)(image, network)
        found = SlidingWindow(ROI, 0.5, precision="bf16")(image, network, on_backend=told.append)
    assert 1e-5 < relative(found, wanted) < 3e-2
    assert [chosen.precision for chosen in told] == ["bf16"]


def test_auto_converts_a_bundles_large_network_alone(image, monkeypatch, tmp_path):
    pytest.importorskip("openvino")
    monkeypatch.setenv("MEDVIT_CACHE", str(tmp_path))
    large = Small(width=4)
    large.more = nn.Parameter(torch.zeros(10**6))
    window = image[..., :32, :32, :32]
    with torch.inference_mode():
        assert "only a bundle's network" in select_backend(large, window, BackendRequest(windows=9)).reason
        setattr(large, WEIGHTS_ATTRIBUTE, "0" * 64)
        assert "too few for a graph" in select_backend(large, window, BackendRequest(windows=2)).reason
        assert not any(tmp_path.iterdir())
        chosen = select_backend(large, window, BackendRequest(windows=9))
        assert "times as fast as eager when converted on this machine" in chosen.reason
        (record,) = tmp_path.glob("openvino/*/made.json")
        ratio = json.loads(record.read_text())["facts"]["ratio"]
        assert chosen.backend == ("openvino" if ratio >= 1.1 else "eager")
        setattr(small := Small(), WEIGHTS_ATTRIBUTE, "0" * 64)
        assert "too small for a graph" in select_backend(small, window, BackendRequest(windows=9)).reason


def test_a_signal_reaches_its_handler_after_graphs_were_dropped(tmp_path):
    """An engine of OpenVINO gives the thread that makes it a stack for signals, and frees it where the engine ends."""
    pytest.importorskip("openvino", reason="there is no OpenVINO for this platform")
    code = """
import os, pathlib, signal, sys, torch
from medvit.inference.backends.openvino import Graph, graph_of

graph_of(torch.nn.Conv2d(1, 1, 3, padding=1).eval(), torch.zeros(1, 1, 8, 8))
(path,) = pathlib.Path(sys.argv[1]).rglob("graph.xml")
first, second = Graph(path, "fp32", {}), Graph(path, "fp32", {})
del first  # the second, which knows its stack, ends after it
del second
signal.signal(signal.SIGINT, lambda *_: print("interrupted", flush=True))
os.kill(os.getpid(), signal.SIGINT)
"""
    environment = {**os.environ, "MEDVIT_CACHE": str(tmp_path)}
    outcome = warm.run([sys.executable, "-c", code, str(tmp_path)], env=environment, capture_output=True, text=True)
    assert (outcome.returncode, outcome.stdout) == (0, "interrupted\n"), outcome.stderr


def test_a_fingerprint_tells_networks_apart_that_share_their_weights(swin):
    plain = fingerprint(swin)
    assert fingerprint(copy.deepcopy(swin)) == plain
    other = copy.deepcopy(swin)
    other.merging = "merging_legacy"
    moved = copy.deepcopy(swin)
    moved.swinViT.layers1[0].blocks[1].shift_size = (1, 1, 1)
    changed = copy.deepcopy(swin)
    assert fingerprint(changed) == plain
    with torch.no_grad():
        next(changed.parameters()).view(-1)[0] += 1
    assert len({plain, fingerprint(other), fingerprint(moved), fingerprint(changed)}) == 4


def test_a_network_is_written_down_without_changing_it():
    torch.manual_seed(0)
    network = Small()
    x = torch.rand(1, 1, 5, 6, 7)
    written = as_recorded(network)
    assert type(network.layers[1]) is nn.InstanceNorm3d
    assert torch.allclose(written(x), network(x), atol=1e-5)


def test_refusals_say_why_and_what_to_do(image, monkeypatch):
    window, network = image[..., :16, :16, :16], Small()
    cases = [
        (lambda x: x, "openvino", "the network is a function, not a torch.nn.Module"),
        (Small().train(), "openvino", r"in training mode; call \.eval\(\) on it"),
    ]
    if not torch.cuda.is_available():
        cases.append((network, "cuda", "no CUDA device on this machine"))
    for given, backend, words in cases:
        with pytest.raises(
            BackendError, match=f"Found that the '{backend}' inference backend cannot run: .*{words}.*backend=.eager."
        ):
            SlidingWindow((16,) * 3, backend=backend)(window, given)
    with pytest.raises(BackendError, match="takes more than the window"):
        SlidingWindow((16,) * 3, backend="openvino")(window, network, 1)
    monkeypatch.setattr(compiled.shutil, "which", lambda name: None)
    with pytest.raises(BackendError, match="needs a C.. compiler, and none of .* is on the PATH; install one"):
        SlidingWindow((16,) * 3, backend="compiled")(window, network)
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setattr("medvit.inference.backends.openvino.find_spec", lambda name: None)
    with pytest.raises(BackendError, match="openvino is not installed; install it: pip install openvino"):
        SlidingWindow((16,) * 3, backend="openvino")(window, network)


def test_a_network_that_is_no_graph_is_refused_and_auto_says_so(image):
    pytest.importorskip("openvino")

    class Looks(Small):
        def forward(self, x):
            return super().forward(x) if float(x.sum()) > 1e9 else super().forward(-x)

    network = Looks()
    network.more = nn.Parameter(torch.zeros(10**6))
    with pytest.raises(BackendError, match="cannot be made an OpenVINO graph .*Use backend=.eager."):
        SlidingWindow((16,) * 3, backend="openvino")(image, network)
    setattr(network, WEIGHTS_ATTRIBUTE, "0" * 64)
    chosen = select_backend(network, image[..., :16, :16, :16], BackendRequest(windows=9))
    assert chosen.backend == "eager"
    assert chosen.reason.startswith("no graph: Found a Looks")


def test_what_a_network_or_image_cannot_be_is_said(image):
    class Halves(nn.Module):
        def forward(self, x):
            small = x[..., ::2]
            return torch.cat([x, torch.cat([small, small], -1)], 1)

    with pytest.raises(ShapeError, match=r"cannot take windows of \(1, 1, 15, 15, 15\).*multiples of 32"):
        SlidingWindow(15)(image, Halves().eval())
    bad = image.clone()
    bad[..., 3] = float("nan")
    with pytest.raises(ImageError, match=r"Found 1280 values that are NaN or infinite.*torch\.nan_to_num"):
        SlidingWindow(16)(bad, Small())
    with pytest.raises(BackendError, match=r"Found a network of torch\.float32 and windows of torch\.float64"):
        SlidingWindow(16)(image.double(), Small())
    with pytest.raises(BackendError, match="Found a network on meta and windows on cpu; both must lie on one device"):
        SlidingWindow(16)(image, Small().to("meta"))

    def full(window):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:125] DefaultCPUAllocator: can't allocate memory")

    with pytest.raises(MemoryShortError, match="lower sw_batch_size or roi_size, or run with low_memory=True"):
        SlidingWindow(16)(image, full)


def test_only_windows_that_touch_the_region_are_run_and_nothing_changes_within():
    image = torch.rand(2, 1, 48, 40, 33, generator=torch.Generator().manual_seed(3))
    ran: list[int] = []

    def network(x):
        ran.append(len(x))
        mean = x.mean((2, 3, 4), keepdim=True)
        return torch.cat([x, x.square() - mean, 1 - x], 1)

    inferer = SlidingWindow(16, 0.5, reuse_constant=False)
    whole = inferer(image, network)
    every, ran[:] = sum(ran), []
    where = torch.zeros(2, 1, 48, 40, 33, dtype=torch.bool)
    where[0, :, 30:40, 5:9, 20:30] = True
    where[1, :, 44:, 30:, :4] = True
    found = inferer(image, network, where=where)
    assert sum(ran) < every / 4
    at = where.expand_as(whole)
    assert torch.equal(found[at], whole[at])
    assert int(found.argmax(1)[~where[:, 0]].max()) == 0
    assert torch.equal(inferer.labels(image, network, where=where), found.argmax(1, keepdim=True))
    with pytest.raises(ImageError, match="without a voxel in the image"):
        inferer(image, network, where=where & False)
    with pytest.raises(ShapeError, match="Found a mask of"):
        inferer(image, network, where=where[:1])
    with pytest.raises(ShapeError, match="no background class"):
        inferer(image, lambda x: x, where=where)


@pytest.mark.parametrize("spatial", [(40, 20, 33), (9, 20, 33)])
def test_streamed_planes_are_the_logits(spatial):
    image = torch.rand(1, 1, *spatial, generator=torch.Generator().manual_seed(3))
    planes: list[torch.Tensor] = []
    inferer = SlidingWindow(16, 0.5)

    def network(x):
        return torch.cat([x, x.square() - x.mean(), 0.6 - x], 1)

    labels = inferer.stream(image, network, lambda part: planes.append(part.clone()))
    assert torch.equal(torch.cat(planes, 1), inferer(image, network)[0])
    assert torch.equal(labels, inferer.labels(image, network))
