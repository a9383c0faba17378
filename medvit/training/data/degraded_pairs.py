"""Pairs of a degraded and a clean slice, with a new degradation for each pair."""

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
from medvit.training.checked_settings import Count, Counts, PositiveRange, Range, WholeNumber, checked_settings
from medvit.training.data.data_list import DataList, case_name, read_entries
from medvit.training.data.volume_reading import VolumeReading

__all__ = ["PairSampler", "PairSettings", "SliceStack", "body_corner", "read_images"]


@checked_settings
class PairSettings:
    """Settings for pairs of a degraded and a clean crop.

    Attributes:
        intensity_range: intensities mapped to 0..1 and clipped, in the image's unit.
        scanner: low-dose scanner at full dose; its seed is replaced for each slice.
        dose: smallest and largest share of the photons, drawn uniformly on a logarithmic scale.
        crop: sides of a crop along i and j, in pixels; smaller slices are padded with air.
        body_above: crops include a pixel above this intensity, in the image's unit, if the slice has one; None for
            crops anywhere. In a head-and-neck CT 95 % of the pixels are air, from which little is learnt.
        context: number of neighbours on each side of a degraded slice, as in ``SliceWise``.
        neighbour_steps: distances to the next neighbour in slices; one is drawn for each pair (repeated entries are
            drawn more often), so that the network also learns thick slices and gaps. At a slab's end the last slice is
            repeated.
        slab: number of slices scanned together at one dose; many at a time take a third of the time per slice.
        pool: number of slabs kept in memory, from which each pair draws one.
        uses: mean number of pairs drawn from a slab before it is replaced. With more than 1, a pair depends on earlier
            pairs, and a run resumed from a checkpoint draws other pairs than an uninterrupted one.
    """

    intensity_range: Range
    scanner: LowDoseCT = field(default_factory=LowDoseCT)
    dose: PositiveRange = (0.05, 0.5)
    crop: tuple[Count, Count] = (128, 128)
    body_above: float | None = None
    context: WholeNumber = 0
    neighbour_steps: Counts = (1,)
    slab: Count = 1
    pool: Count = 1
    uses: Count = 1

    def sampler(self, bundle: Bundle, data: DataList, seed: int) -> PairSampler:
        """Read the clean volumes of a list and make a sampler of pairs."""
        return PairSampler(read_images(bundle, data.data, data.root, data.split, data.reading), self, seed)


@dataclass(frozen=True)
class SliceStack:
    """A clean volume on RAS axes.

    Attributes:
        name: name of the case.
        image: (i, j, k) float32 in its own unit, slices along k.
        spacing_mm: voxel sides.
    """

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
    """Neighbouring slices of a volume, (k, i, j) each, degraded and clean."""

    noisy: NDArray[np.float32]
    clean: NDArray[np.float32]


def _require_volumes(cases: list[SliceStack]) -> None:
    if not cases:
        raise ShapeError("0 volumes", "at least one is needed to draw from", "Correct the data list.")


class PairSampler:
    """Sampler of (degraded, clean) crops of slices, each scanned at a random dose."""

    def __init__(self, cases: list[SliceStack], settings: PairSettings, seed: int) -> None:
        _require_volumes(cases)
        self.cases = cases
        self.settings = settings
        self.rng = np.random.default_rng(seed)
        self._pool: list[_Slab] = []

    def reseed(self, seed: int | Sequence[int]) -> None:
        """Start a new random stream."""
        self.rng = np.random.default_rng(seed)

    def draw(self) -> tuple[Tensor, Tensor]:
        """Draw a pair, float32 in 0..1: the degraded slice with neighbours (2 · context + 1, i, j) and the clean one
        (1, i, j)."""
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
        """Return a slab from the pool, or a new one, which replaces another when the pool is full."""
        s, rng = self.settings, self.rng
        if len(self._pool) < s.pool:
            self._pool.append(self._scan())
            return self._pool[-1]
        chosen = int(rng.integers(s.pool))
        if s.uses == 1 or rng.random() < 1 / s.uses:
            self._pool[chosen] = self._scan()
        return self._pool[chosen]

    def _scan(self) -> _Slab:
        """Degrade neighbouring slices of a case at a random dose."""
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
        """Draw a batch of pairs: two (batch, channel, i, j), see ``draw``."""
        degraded, clean = zip(*(self.draw() for _ in range(size)), strict=True)
        return torch.stack(degraded), torch.stack(clean)


def body_corner(
    clean: NDArray[np.float32], crop: Sequence[int], above: float | None, rng: np.random.Generator
) -> tuple[int, int]:
    """Draw the first row and column of a crop of a slice (i, j): anywhere, or around a pixel of the body.

    Args:
        clean: the slice, at least as large as the crop.
        crop: sides of the crop.
        above: pixels above this value are the body; None, or a slice without such pixels, allows crops anywhere.
        rng: random generator.
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
