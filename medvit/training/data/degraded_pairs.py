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
from medvit.io import spacing_mm
from medvit.physics.degradations import LowDoseCT
from medvit.training.data.data_list import DataList, case_name, read_entries
from medvit.training.data.volume_reading import VolumeReading

__all__ = ["PairSampler", "PairSettings", "SliceStack", "body_corner", "read_images"]


@dataclass(frozen=True, kw_only=True)
class PairSettings:
    """How pairs of a degraded and a clean crop are drawn.

    Attributes:
        intensity_range: intensities mapped to 0..1 and clipped, in the image's unit.
        scanner: the low-dose scanner at full dose; its seed is replaced for each slice.
        dose: smallest and largest share of the photons, drawn evenly on a logarithmic scale.
        crop: sides of a crop along i and j, in pixels; smaller slices are padded with air.
        body_above: crops hold a pixel above this intensity, in the image's unit, where the slice has one; None for
            crops anywhere. In a head-and-neck CT nineteen pixels of twenty are air, which teaches little.
        context: neighbours on either side that a degraded slice brings along, as ``SliceWise`` gives them.
        neighbour_steps: how many slices away the next neighbour lies; one is drawn for each pair, more often if it stands
            there several times, so that thick slices and gaps are known. At a slab's end its last slice stands for the
            neighbour, as at a volume's.
        slab: slices that are scanned together, at one dose; many at a time take a third of the time of one.
        pool: slabs kept at hand, of which each pair draws one.
        uses: pairs drawn from a slab, on average, before another takes its place. With more than 1, what is drawn
            depends on what was drawn before, and a run that goes on from a checkpoint draws other pairs than one in one piece.
    """

    intensity_range: tuple[float, float]
    scanner: LowDoseCT = field(default_factory=LowDoseCT)
    dose: tuple[float, float] = (0.05, 0.5)
    crop: tuple[int, int] = (128, 128)
    body_above: float | None = None
    context: int = 0
    neighbour_steps: Sequence[int] = (1,)
    slab: int = 1
    pool: int = 1
    uses: int = 1

    def sampler(self, bundle: Bundle, data: DataList, seed: int) -> PairSampler:
        """Read the clean volumes of a list and draw pairs from them."""
        return PairSampler(read_images(bundle, data.data, data.root, data.split, data.reading), self, seed)


@dataclass(frozen=True)
class SliceStack:
    """One clean volume on RAS axes: (i, j, k) float32 in its own unit, slices across k, and its sides in mm."""

    name: str
    image: NDArray[np.float32]
    spacing_mm: tuple[float, float, float]


def read_images(
    bundle: Bundle, data: Path | None, root: Path | None, split: str, reading: VolumeReading | None = None
) -> list[SliceStack]:
    """Read the clean volumes of one split of a data list into memory.

    Raises:
        SourceError: as ``medvit.training.data.data_list.read_entries``; entries need an image alone.
    """
    reading = reading or VolumeReading()
    entries = read_entries(bundle, DataList(data, root, split), ("image",))
    return [_read(entry["image"], reading) for entry in entries]


def _read(path: Path, reading: VolumeReading) -> SliceStack:
    image = nib.as_closest_canonical(reading.load(path))
    return SliceStack(case_name(path), image.get_fdata(dtype=np.float32), spacing_mm(image.affine))


@dataclass(frozen=True)
class _Slab:
    """Neighbouring slices of a volume, (k, i, j) each, scanned and clean."""

    noisy: NDArray[np.float32]
    clean: NDArray[np.float32]


def _require_sense(cases: list[SliceStack], settings: PairSettings) -> None:
    low, high = settings.dose
    counts = (*settings.crop, *settings.neighbour_steps, settings.slab, settings.pool, settings.uses)
    sensible = settings.context >= 0 and len(settings.neighbour_steps) and min(counts) >= 1
    if not 0 < low <= high or not sensible or not cases:
        raise ShapeError(
            (
                f"doses {settings.dose}, crop {settings.crop}, context {settings.context}, neighbour_steps "
                f"{list(settings.neighbour_steps)}, slab {settings.slab}, pool {settings.pool}, uses {settings.uses} and "
                f"{len(cases)} volumes"
            ),
            "positive doses in order, a crop of at least a pixel, counts of at least 1 and a volume are needed",
            "Correct train.json or the data list.",
        )


class PairSampler:
    """Draws (degraded, clean) crops of slices scanned anew, at a dose of their own."""

    def __init__(self, cases: list[SliceStack], settings: PairSettings, seed: int) -> None:
        _require_sense(cases, settings)
        self.cases = cases
        self.settings = settings
        self.rng = np.random.default_rng(seed)
        self._pool: list[_Slab] = []

    def reseed(self, seed: int | Sequence[int]) -> None:
        """Start a new stream of pairs."""
        self.rng = np.random.default_rng(seed)

    def draw(self) -> tuple[Tensor, Tensor]:
        """One pair, float32 in 0..1: the degraded slice and its neighbours (2 · context + 1, i, j), the clean one (1, i, j)."""
        s, rng = self.settings, self.rng
        slab = self._slab()
        at = int(rng.integers(len(slab.clean)))
        step = int(s.neighbour_steps[int(rng.integers(len(s.neighbour_steps)))]) if s.context else 1
        near = np.clip(at + step * np.arange(-s.context, s.context + 1), 0, len(slab.clean) - 1)
        if s.context and rng.random() < 0.5:
            near = near[::-1]
        both = torch.from_numpy(np.concatenate([slab.noisy[near], slab.clean[at][None]]))[None]
        pad = [max(0, c - n) for c, n in zip(s.crop, slab.clean.shape[1:], strict=True)]
        both = F.pad(both, (0, pad[1], 0, pad[0]), value=s.intensity_range[0])[0]
        i, j = body_corner(both[-1].numpy(), s.crop, s.body_above, rng)
        both = both[:, i : i + s.crop[0], j : j + s.crop[1]]
        both = both.flip([axis for axis in (1, 2) if rng.random() < 0.5])
        low, high = s.intensity_range
        scaled = ((both - low) / (high - low)).clamp(0, 1)
        return scaled[:-1], scaled[-1:]

    def _slab(self) -> _Slab:
        """One of those at hand, or a new one, which takes the place of another once there are enough."""
        s, rng = self.settings, self.rng
        if len(self._pool) < s.pool:
            self._pool.append(self._scan())
            return self._pool[-1]
        chosen = int(rng.integers(s.pool))
        if s.uses == 1 or rng.random() < 1 / s.uses:
            self._pool[chosen] = self._scan()
        return self._pool[chosen]

    def _scan(self) -> _Slab:
        """Neighbouring slices of a case, taken at a dose of their own."""
        s, rng = self.settings, self.rng
        case = self.cases[int(rng.integers(len(self.cases)))]
        count = min(s.slab, case.image.shape[2])
        first = int(rng.integers(case.image.shape[2] - count + 1))
        clean = case.image[..., first : first + count]
        dose = math.exp(rng.uniform(math.log(s.dose[0]), math.log(s.dose[1])))
        scanner = s.scanner.at_dose(dose, seed=int(rng.integers(2**31)))
        noisy = scanner(clean, case.spacing_mm)
        return _Slab(np.moveaxis(noisy, 2, 0), np.ascontiguousarray(np.moveaxis(clean, 2, 0)))

    def batch(self, size: int) -> tuple[Tensor, Tensor]:
        """A batch of pairs: two (batch, channel, i, j), as ``draw`` gives them."""
        degraded, clean = zip(*(self.draw() for _ in range(size)), strict=True)
        return torch.stack(degraded), torch.stack(clean)


def body_corner(
    clean: NDArray[np.float32], crop: Sequence[int], above: float | None, rng: np.random.Generator
) -> tuple[int, int]:
    """The first row and column of a crop of a slice (i, j): anywhere, or anywhere around a pixel of the body.

    Args:
        clean: the slice, at least as large as the crop.
        crop: its sides.
        above: what lies above it is the body; None for anywhere, as where no pixel does.
        rng: what is drawn from.
    """
    last = [n - c for n, c in zip(clean.shape, crop, strict=True)]
    low, high = [0, 0], last
    body = np.argwhere(clean > above) if above is not None else np.empty((0, 2), int)
    if len(body):
        pixel = body[int(rng.integers(len(body)))]
        low = [min(max(0, int(p) - c + 1), n) for p, c, n in zip(pixel, crop, last, strict=True)]
        high = [min(int(p), n) for p, n in zip(pixel, last, strict=True)]
    i, j = (int(rng.integers(a, b + 1)) for a, b in zip(low, high, strict=True))
    return i, j
