"""Training a restoration network: clean slices, degraded on the fly, and the loop that all networks share."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from medvit.bundles import Bundle
from medvit.errors import BundleError, ShapeError, SourceError
from medvit.restoration import RestoreRWKV
from medvit.restoration.degradations import LowDoseCT
from medvit.training.data import data_root
from medvit.training.loop import LoopSettings, TrainingLoop
from medvit.training.restoration_losses import charbonnier, l1, ssim_loss

__all__ = ["PairSampler", "PairSettings", "RestorationLoop", "RestorationRecipe", "Slices", "read_images"]

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": l1,
    "charbonnier": charbonnier,
    "l1+ssim": lambda restored, clean: l1(restored, clean) + 0.1 * ssim_loss(restored, clean),
}


@dataclass(frozen=True)
class PairSettings:
    """How pairs of a degraded and a clean crop are drawn.

    Attributes:
        intensity_range: intensities mapped to 0..1 and clipped, in the image's unit.
        scanner: the low-dose scanner at full dose; its seed is replaced for each slice.
        dose: smallest and largest share of the photons, drawn evenly on a logarithmic scale.
        crop: sides of a crop along i and j, in pixels; smaller slices are padded with air.
    """

    intensity_range: tuple[float, float]
    scanner: LowDoseCT = field(default_factory=LowDoseCT)
    dose: tuple[float, float] = (0.05, 0.5)
    crop: tuple[int, int] = (128, 128)


@dataclass(frozen=True)
class RestorationRecipe:
    """What a restoration bundle's train.json says.

    Attributes:
        network: the network to train.
        pairs: how pairs are drawn.
        loop: how the loop runs; what it says about classes is not used.
        loss: "l1", "charbonnier" or "l1+ssim".
    """

    network: nn.Module
    pairs: PairSettings
    loop: LoopSettings
    loss: str = "charbonnier"

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise BundleError(
                f"Found the loss {self.loss!r}; it must be one of {', '.join(LOSSES)}. Correct train.json."
            )


@dataclass(frozen=True)
class Slices:
    """One clean volume on RAS axes: (i, j, k) float32 in its own unit, slices across k, and its sides in mm."""

    name: str
    image: NDArray[np.float32]
    spacing_mm: tuple[float, float, float]


def read_images(bundle: Bundle, data: Path | None, root: Path | None, split: str) -> list[Slices]:
    """The clean volumes of one split of a data list, in memory.

    Raises:
        SourceError: no such list or split, a missing file, or a file in two splits.
    """
    path = data or bundle.root / "configs" / "datalist.json"
    try:
        content = json.loads(path.read_text())
        names = {part: [entry["image"] for entry in v] for part, v in content.items() if isinstance(v, list)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SourceError(
            f"Found no readable data list at {path} ({error}); a JSON file whose parts list {{'image': path}} is needed."
        ) from error
    if not names.get(split):
        raise SourceError(
            f"Found no {split!r} entries in {path}; give a list with some. Its parts: {', '.join(names)}."
        )
    twice = set(names[split]).intersection(*[[n for part, v in names.items() if part != split for n in v]])
    if twice:
        raise SourceError(
            f"Found {sorted(twice)[0]} in several parts of {path}; a case may train or judge, not both. Remove it from one."
        )
    base = data_root(root, path)
    return [_read(base / name) for name in names[split]]


def _read(path: Path) -> Slices:
    if not path.is_file():
        raise SourceError(
            f"Found no {path}; every file of the list is needed. Set --root to the folder the list starts from."
        )
    image = nib.as_closest_canonical(nib.load(path))
    x, y, z = (float(s) for s in image.header.get_zooms()[:3])
    return Slices(path.name.removesuffix(".gz").removesuffix(".nii"), image.get_fdata(dtype=np.float32), (x, y, z))


class PairSampler:
    """Draws (degraded, clean) crops; every slice is scanned anew at another dose."""

    def __init__(self, cases: list[Slices], settings: PairSettings, seed: int) -> None:
        low, high = settings.dose
        if not 0 < low <= high or min(settings.crop) < 1 or not cases:
            raise ShapeError(
                f"Found doses {settings.dose}, crop {settings.crop} and {len(cases)} volumes; positive doses in order, a crop of at "
                "least a pixel and a volume are needed. Correct train.json or the data list."
            )
        self.cases = cases
        self.settings = settings
        self.rng = np.random.default_rng(seed)

    def reseed(self, seed: int) -> None:
        """Start a new stream of pairs."""
        self.rng = np.random.default_rng(seed)

    def draw(self) -> tuple[Tensor, Tensor]:
        """One pair, each (channel, i, j) float32 in 0..1."""
        s, rng = self.settings, self.rng
        case = self.cases[int(rng.integers(len(self.cases)))]
        clean = case.image[..., int(rng.integers(case.image.shape[2]))]
        dose = math.exp(rng.uniform(math.log(s.dose[0]), math.log(s.dose[1])))
        scanner = s.scanner.at_dose(dose, seed=int(rng.integers(2**31)))
        noisy = scanner(clean, case.spacing_mm[:2])
        both = torch.from_numpy(np.stack([noisy, clean]))[None]
        pad = [max(0, c - n) for c, n in zip(s.crop, clean.shape, strict=True)]
        both = F.pad(both, (0, pad[1], 0, pad[0]), value=s.intensity_range[0])[0]
        i, j = (int(rng.integers(n - c + 1)) for n, c in zip(both.shape[1:], s.crop, strict=True))
        both = both[:, i : i + s.crop[0], j : j + s.crop[1]]
        both = both.flip([axis for axis in (1, 2) if rng.random() < 0.5])
        low, high = s.intensity_range
        scaled = ((both - low) / (high - low)).clamp(0, 1)
        return scaled[:1], scaled[1:]

    def batch(self, size: int) -> tuple[Tensor, Tensor]:
        """A batch of pairs: two (batch, channel, i, j)."""
        degraded, clean = zip(*(self.draw() for _ in range(size)), strict=True)
        return torch.stack(degraded), torch.stack(clean)


class RestorationLoop(TrainingLoop):
    """The shared loop with a restoration loss in place of the segmentation's."""

    def __init__(self, recipe: RestorationRecipe, sampler: PairSampler, folder: Path) -> None:
        self.difference = LOSSES[recipe.loss]
        super().__init__(recipe.network, sampler, recipe.loop, folder)  # draws pairs alike

    def _supervise(self, network: nn.Module) -> nn.ModuleDict:
        return nn.ModuleDict()

    def loss(self, image: Tensor, labels: Tensor) -> Tensor:
        """Loss of the restored (batch, channel, i, j) against the clean one, given as ``labels``."""
        return self.difference(self.network(image), labels)

    def run(self) -> dict[str, Tensor]:
        """Train to the last step and return the averaged weights, their fused kernels computed anew."""
        average = super().run()
        if not isinstance(self.network, RestoreRWKV):
            return average
        self.network.load_state_dict(average)
        return dict(self.network.refresh().state_dict())
