"""Benchmark of Swin UNETR by each backend against MONAI's network in MONAI's inferer: same weights, windows and
blending."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from monai.bundle import ConfigParser
from monai.inferers import SlidingWindowInferer
from monai.networks.nets import SwinUNETR as MonaiSwinUNETR
from torch import Tensor, nn

from medvit.errors import BackendError, BundleError
from medvit.inference import SlidingWindow, load_model
from medvit.io import open_source
from medvit.segmentation import SwinUNETR
from medvit.settings import RunSettings
from medvit.tasks import prepare_scan

__all__ = ["Row", "Workload", "bundle_workload", "compare", "random_workload"]

_BACKENDS = (("eager", "fp32"), ("openvino", "fp32"), ("openvino", "bf16"))


@dataclass(frozen=True, kw_only=True)
class Row:
    """Measurement of one backend against MONAI.

    Attributes:
        work: description of the run.
        theirs: median wall-clock seconds of MONAI.
        ours: median wall-clock seconds of medvit.
        ratio: median over pairs of theirs / ours, wall clock.
        ratio_cpu: the same for processor time, on which other programs have less influence.
        agreement: share of voxels with the same label.
        difference: relative L2 difference of the logits.
        refused: reason why a backend did not run; the numbers are then 0.
    """

    work: str
    theirs: float = 0.0
    ours: float = 0.0
    ratio: float = 0.0
    ratio_cpu: float = 0.0
    agreement: float = 0.0
    difference: float = 0.0
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
    """Run each backend in turn, each after a run of MONAI's network in MONAI's inferer; overlap 0.5, Gaussian weights.

    Args:
        work: networks and image.
        runs: number of pairs, after one pair that is not counted.
    """
    monai = SlidingWindowInferer((work.roi,) * 3, overlap=0.5, mode="gaussian")

    def theirs() -> Tensor:
        made: Tensor = monai(work.image, work.peer)
        return made

    with torch.inference_mode():
        wanted = theirs()
        for backend, precision in _BACKENDS:
            inferer = SlidingWindow((work.roi,) * 3, 0.5, backend=backend, precision=precision)
            name = f"{work.name}: {backend} {precision}"
            try:
                found = inferer(work.image, work.mine)
            except BackendError as error:
                yield Row(work=name, refused=str(error))
                continue
            pairs = [(_taken(theirs), _taken(lambda: inferer(work.image, work.mine))) for _ in range(runs)]  # noqa: B023
            yield Row(
                work=name,
                theirs=statistics.median(a[0] for a, _ in pairs),
                ours=statistics.median(b[0] for _, b in pairs),
                ratio=statistics.median(a[0] / b[0] for a, b in pairs),
                ratio_cpu=statistics.median(a[1] / b[1] for a, b in pairs),
                agreement=float((found.argmax(1) == wanted.argmax(1)).float().mean()),
                difference=float((found - wanted).norm() / wanted.norm()),
            )


def _taken(action: Callable[[], object]) -> tuple[float, float]:
    """Return wall-clock and processor seconds of one call."""
    wall, own = time.perf_counter(), time.process_time()
    action()
    return time.perf_counter() - wall, time.process_time() - own
