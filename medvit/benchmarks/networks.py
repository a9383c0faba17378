"""Benchmark of Swin UNETR by each backend against MONAI's network in MONAI's inferer: same weights, windows and
blending.

MONAI's network also runs in OpenVINO and in ONNX Runtime, and medvit's network in MONAI's inferer. So the table shows
which part of a ratio comes from the runtime, which from the network's form, and which from the engine.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from monai.bundle import ConfigParser
from monai.inferers import SlidingWindowInferer
from monai.networks.nets import SwinUNETR as MonaiSwinUNETR
from torch import Tensor, nn

from medvit.benchmarks.peers import onnx_peer, openvino_peer
from medvit.errors import BackendError, BundleError
from medvit.inference import SlidingWindow, load_model
from medvit.inference.backends import graph_of
from medvit.io import open_source
from medvit.segmentation import SwinUNETR
from medvit.settings import RunSettings
from medvit.tasks import prepare_scan

__all__ = ["Row", "Split", "Workload", "bundle_workload", "compare", "random_workload"]

_BACKENDS = (("eager", "fp32"), ("openvino", "fp32"), ("openvino", "bf16"))

_PEERS = ("openvino", "onnxruntime", "mixed")

_PEER, _MIXED, _FULL = "MONAI in OpenVINO", "medvit's network in OpenVINO, MONAI's inferer", "openvino fp32"
"""Names of the ways that ``Split`` compares."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """Parts of the ratio of medvit in OpenVINO over MONAI in eager PyTorch, by processor time; their product is about
    the ratio.

    Attributes:
        runtime: MONAI in eager PyTorch over MONAI's network as an OpenVINO graph, both in MONAI's inferer.
        network: the latter over medvit's network as an OpenVINO graph, both in MONAI's inferer.
        engine: the latter over the same graph in medvit's inferer (windows, streaming, caching).
        total: MONAI in eager PyTorch over medvit in OpenVINO.
    """

    runtime: float
    network: float
    engine: float
    total: float


@dataclass(frozen=True, kw_only=True)
class Row:
    """Measurement of one way to run the work against MONAI in eager PyTorch.

    Attributes:
        work: description of the work and of this way.
        way: network, runtime and inferer.
        theirs: median wall-clock seconds of MONAI in eager PyTorch.
        ours: median wall-clock seconds of this way.
        ratio: median over rounds of theirs / ours, wall clock.
        ratio_cpu: the same for processor time, on which other programs have less influence.
        agreement: share of voxels with the same label.
        largest: largest absolute difference of a logit.
        difference: relative L2 difference of the logits.
        wall: wall-clock seconds of each round.
        cpu: processor seconds of each round.
        split: parts of the ratio, for medvit in OpenVINO in fp32.
        refused: reason why this way did not run; the numbers are then 0.
    """

    work: str
    way: str
    theirs: float = 0.0
    ours: float = 0.0
    ratio: float = 0.0
    ratio_cpu: float = 0.0
    agreement: float = 0.0
    largest: float = 0.0
    difference: float = 0.0
    wall: tuple[float, ...] = ()
    cpu: tuple[float, ...] = ()
    split: Split | None = None
    refused: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Workload:
    """Networks and image of a benchmark.

    Attributes:
        name: description for the table.
        peer: MONAI's network.
        mine: medvit's network with the same weights.
        image: (1, channel, i, j, k).
        roi: side of the cubic window.
    """

    name: str
    peer: nn.Module
    mine: nn.Module
    image: Tensor
    roi: int


def random_workload(feature_size: int = 12, side: int = 96, air: bool = False) -> Workload:
    """Make a Swin UNETR with 14 classes and random weights, and an image of random numbers.

    Args:
        feature_size: 12, 24 or 48.
        side: side of the window; the image is one and a half windows long, so that two windows run.
        air: make four windows instead of two, of which three are constant like the air around a patient.
    """
    torch.manual_seed(0)
    peer = MonaiSwinUNETR(1, 14, feature_size=feature_size, spatial_dims=3).eval()
    mine = SwinUNETR(1, 14, feature_size=feature_size).eval()
    mine.load_state_dict(peer.state_dict())
    length = side * 5 // 2 if air else side * 3 // 2
    image = torch.rand(1, 1, length, side, side, generator=torch.Generator().manual_seed(0))
    if air:
        image[:, :, side // 2 :] = 0
    return Workload(
        name=f"fs{feature_size}, {side}^3, {'mostly air' if air else 'full'}",
        peer=peer,
        mine=mine,
        image=image,
        roi=side,
    )


def bundle_workload(name: str, case: str | os.PathLike[str], side: int = 96, air: bool = False) -> Workload:
    """Load a trained bundle and its MONAI twin, and a real scan after the bundle's preprocessing.

    Args:
        name: a bundle with ``configs/inference_monai.json``.
        case: a scan of the kind that the bundle takes.
        side: side of the window, which may differ from the bundle's.
        air: extend the scan with air (its minimum) along i to two and a half times its length, as without a crop.

    Raises:
        BundleError: the bundle is not trained, or has no twin.
    """
    model = load_model(name, "cpu")
    twin = model.bundle.root / "configs" / "inference_monai.json"
    if not twin.is_file():
        raise BundleError(
            f"no configs/inference_monai.json in {model.bundle.name}",
            "MONAI's network and inferer are read from it",
            "Take a bundle of Swin UNETR, or leave {bundle} out.",
            option="bundle",
        )
    config = json.loads(twin.read_text()) | {"bundle_root": str(model.bundle.root), "device": "cpu"}
    peer = ConfigParser(config).get_parsed_content("network")
    scan = prepare_scan({"image": open_source(case)}, model.bundle, RunSettings(device="cpu")).scan
    image = model.preprocessing({"image": scan.meta_tensor()})["image"].as_tensor()[None]
    if air:
        image = nn.functional.pad(image, (0, 0, 0, 0, 0, image.shape[2] * 3 // 2), value=float(image.min()))
    size = " x ".join(map(str, image.shape[2:]))
    return Workload(
        name=f"{model.bundle.name}, trained, {size}{', mostly air,' * air} in {side}^3",
        peer=peer.eval(),
        mine=model.network,
        image=image,
        roi=side,
    )


def compare(work: Workload, runs: int = 3) -> Iterator[Row]:
    """Run MONAI in eager PyTorch and each other way in turn, with overlap 0.5 and Gaussian weights.

    Args:
        work: networks and image.
        runs: number of rounds in which every way runs once, after one round that is not counted.
    """
    monai = SlidingWindowInferer((work.roi,) * 3, overlap=0.5, mode="gaussian")

    def theirs() -> Tensor:
        made: Tensor = monai(work.image, work.peer)
        return made

    with torch.inference_mode():
        wanted = theirs()
        ready: dict[str, _Way] = {}
        rows: dict[str, Row] = {}
        for name, prepare in _ways(work, monai):
            try:
                way = prepare()
                found = way()
            except BackendError as error:
                rows[name] = Row(work=f"{work.name}: {name}", way=name, refused=str(error))
                continue
            ready[name] = way
            rows[name] = Row(
                work=f"{work.name}: {name}",
                way=name,
                agreement=float((found.argmax(1) == wanted.argmax(1)).float().mean()),
                largest=float((found - wanted).abs().max()),
                difference=float((found - wanted).norm() / wanted.norm()),
            )
            del found
        rounds = [[_taken(way) for way in (theirs, *ready.values())] for _ in range(runs)]
    first, *others = (tuple(zip(*column, strict=True)) for column in zip(*rounds, strict=True))
    timed = dict(zip(ready, others, strict=True))
    made = [_with_times(row, first, timed[name]) if name in timed else row for name, row in rows.items()]
    parts = _split(made)
    yield from (replace(row, split=parts) if row.way == _FULL else row for row in made)


_Way = Callable[[], Tensor]


def _ways(work: Workload, monai: SlidingWindowInferer) -> Iterator[tuple[str, Callable[[], _Way]]]:
    """List the ways beside MONAI in eager PyTorch: a name, and a function that prepares the way."""
    example = torch.rand(1, work.image.shape[1], *(work.roi,) * 3, generator=torch.Generator().manual_seed(0))

    def windows(convert: Callable[[], Callable[[Tensor], Tensor]]) -> Callable[[], _Way]:
        def prepare() -> _Way:
            run = convert()
            return lambda: monai(work.image, run)

        return prepare

    peers = {
        "openvino": (_PEER, windows(lambda: openvino_peer(work.peer, example))),
        "onnxruntime": ("MONAI in ONNX Runtime", windows(lambda: onnx_peer(work.peer, example))),
        "mixed": (_MIXED, windows(lambda: graph_of(work.mine, example))),
    }
    yield from (peers[name] for name in _PEERS)
    for backend, precision in _BACKENDS:
        yield f"{backend} {precision}", partial(_ours, work, backend, precision)


def _ours(work: Workload, backend: str, precision: str) -> _Way:
    inferer = SlidingWindow((work.roi,) * 3, 0.5, backend=backend, precision=precision)
    return lambda: inferer(work.image, work.mine)


def _split(rows: Sequence[Row]) -> Split | None:
    """Compute how much of medvit's ratio in OpenVINO is the runtime, the network's form and the engine; None if one of
    these ways did not run."""
    ran = {row.way: row for row in rows if not row.refused}
    if not {_PEER, _MIXED, _FULL} <= ran.keys():
        return None
    peer, mixed, full = (ran[name] for name in (_PEER, _MIXED, _FULL))

    def ratio(slow: Row, fast: Row) -> float:
        return statistics.median(a / b for a, b in zip(slow.cpu, fast.cpu, strict=True))

    return Split(runtime=peer.ratio_cpu, network=ratio(peer, mixed), engine=ratio(mixed, full), total=full.ratio_cpu)


_Times = tuple[tuple[float, ...], ...]
"""Wall-clock seconds of each round, then processor seconds."""


def _with_times(row: Row, theirs: _Times, ours: _Times) -> Row:
    wall, cpu = (
        statistics.median(a / b for a, b in zip(slow, fast, strict=True))
        for slow, fast in zip(theirs, ours, strict=True)
    )
    return replace(
        row,
        theirs=statistics.median(theirs[0]),
        ours=statistics.median(ours[0]),
        ratio=wall,
        ratio_cpu=cpu,
        wall=ours[0],
        cpu=ours[1],
    )


def _taken(action: Callable[[], object]) -> tuple[float, float]:
    """Return wall-clock and processor seconds of one call."""
    wall, own = time.perf_counter(), time.process_time()
    action()
    return time.perf_counter() - wall, time.process_time() - own
