"""Pairs of a degraded and a clean slice, degraded anew each time one is drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from medvit.bundles import Bundle
from medvit.errors import ShapeError
from medvit.restoration.degradations import LowDoseCT
from medvit.training.data import DataList, plain_name, read_entries

__all__ = ["PairSampler", "PairSettings", "Slices", "read_images"]


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

    def sampler(self, bundle: Bundle, data: DataList, seed: int) -> PairSampler:
        """Read the clean volumes of a list and draw pairs from them."""
        return PairSampler(read_images(bundle, data.data, data.root, data.split), self, seed)


@dataclass(frozen=True)
class Slices:
    """One clean volume on RAS axes: (i, j, k) float32 in its own unit, slices across k, and its sides in mm."""

    name: str
    image: NDArray[np.float32]
    spacing_mm: tuple[float, float, float]


def read_images(bundle: Bundle, data: Path | None, root: Path | None, split: str) -> list[Slices]:
    """The clean volumes of one split of a data list, in memory.

    Raises:
        SourceError: as ``medvit.training.data.read_entries``; entries need an image alone.
    """
    return [_read(entry["image"]) for entry in read_entries(bundle, DataList(data, root, split), ("image",))]


def _read(path: Path) -> Slices:
    image = nib.as_closest_canonical(nib.load(path))
    x, y, z = (float(s) for s in image.header.get_zooms()[:3])
    return Slices(plain_name(path), image.get_fdata(dtype=np.float32), (x, y, z))


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

    def reseed(self, seed: int | Sequence[int]) -> None:
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
