"""Pairs of a slice with truncated k-space and the original slice, from every axis of a volume with fine slices."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from medvit.bundles import Bundle
from medvit.errors import ShapeError
from medvit.io import spacing_mm
from medvit.physics.degradations import TruncatedMR
from medvit.training.checked_settings import Count, Counts, PositiveRange, Range, Share, checked_settings
from medvit.training.data.data_list import DataList, case_name, read_entries
from medvit.training.data.degraded_pairs import SliceStack, body_corner
from medvit.training.data.volume_reading import VolumeReading
from medvit.transforms import percentile_range

__all__ = ["TruncationPairs", "TruncationSampler", "read_stacks"]

_EVEN = 1.3
"""Largest ratio of voxel sides for which slices along all three axes are fine enough."""

_HEAD = 0.1
"""Share of the volume's range above which a pixel is the head, not air; crops include such a pixel."""

_SHARE = 0.05
"""Smallest share of head in a slice that is drawn."""


@checked_settings
class TruncationPairs:
    """Settings for pairs of a truncated and an original crop.

    Attributes:
        factors: pixel size of the coarse scan divided by that of the fine one; one is drawn for each pair (repeated
            entries are drawn more often).
        percentiles: percentiles of the volume that become 0 and 1, as in the bundle's preprocessing.
        crop: sides of a crop, in pixels; smaller slices are padded with zeros.
        brightness: smallest and largest factor on the range, since the percentiles of a coarse scan differ slightly.
        gamma: smallest and largest exponent applied to the scaled clean slice before truncation, for other contrasts.
        redrawn: share of the pairs with a random contrast: a curve through random levels maps each intensity, possibly
            bright to dark, so that few volumes show many tissues (as in the synthesis of B. Billot et al., Medical
            Image Analysis 86, 2023, which draws each label's level).
    """

    factors: Counts = (2, 4)
    percentiles: Range = (0.5, 99.5)
    crop: tuple[Count, Count] = (64, 64)
    brightness: PositiveRange = (0.8, 1.25)
    gamma: PositiveRange = (0.7, 1.4)
    redrawn: Share = 0.0

    def sampler(self, bundle: Bundle, data: DataList, seed: int) -> TruncationSampler:
        """Read the clean volumes of a list and make a sampler of pairs."""
        return TruncationSampler(read_stacks(bundle, data.data, data.root, data.split, data.reading), self, seed)


def read_stacks(
    bundle: Bundle, data: Path | None, root: Path | None, split: str, reading: VolumeReading | None = None
) -> list[SliceStack]:
    """Read the clean volumes of one split as stored, slices along k.

    Unlike ``read_images``, this does not turn the volumes to the patient's axes: the stack's own plane is the encoded
    one.

    Raises:
        SourceError: as for ``medvit.training.data.data_list.read_entries``; entries need only an image.
    """
    reading = reading or VolumeReading()
    entries = read_entries(bundle, DataList(data, root, split), ("image",))
    return [_read(entry["image"], reading) for entry in entries]


def _read(path: Path, reading: VolumeReading) -> SliceStack:
    image = reading.load(path)
    return SliceStack(case_name(path), image.get_fdata(dtype=np.float32), spacing_mm(image.affine))


class TruncationSampler:
    """Sampler of (truncated, original) crops of slices, each with a new truncation."""

    def __init__(self, cases: list[SliceStack], settings: TruncationPairs, seed: int) -> None:
        if not cases:
            raise ShapeError("0 volumes", "at least one is needed to draw from", "Correct the data list.")
        self.settings = settings
        self.cases = [_scaled(case, settings.percentiles) for case in cases]
        self.shown = [_shown(case) for case in self.cases]
        self.rng = np.random.default_rng(seed)

    def reseed(self, seed: int | Sequence[int]) -> None:
        """Start a new random stream."""
        self.rng = np.random.default_rng(seed)

    def draw(self) -> tuple[Tensor, Tensor]:
        """Draw a pair, each (channel, i, j) float32, with the volume's range at about 0..1."""
        s, rng = self.settings, self.rng
        clean, sides = self._slice()
        if s.redrawn and rng.random() < s.redrawn:
            clean = _redrawn(clean, rng)
        power = np.float32(np.exp(rng.uniform(*np.log(s.gamma))))
        # values below 0 (noise under the lower percentile) are kept, since they have no real power
        clean = np.where(clean > 0, np.abs(clean) ** power, clean)
        clean = clean * np.float32(np.exp(rng.uniform(*np.log(s.brightness))))
        factor = int(s.factors[int(rng.integers(len(s.factors)))])
        clean = clean[tuple(slice(0, n - n % factor) for n in clean.shape)]
        both = torch.from_numpy(np.stack([TruncatedMR(factor)(clean, sides), clean]))[None]
        pad = [max(0, c - n) for c, n in zip(s.crop, clean.shape, strict=True)]
        both = F.pad(both, (0, pad[1], 0, pad[0]))[0]
        i, j = body_corner(both[1].numpy(), s.crop, _HEAD, rng)
        both = both[:, i : i + s.crop[0], j : j + s.crop[1]]
        both = both.flip([axis for axis in (1, 2) if rng.random() < 0.5])
        if s.crop[0] == s.crop[1] and rng.random() < 0.5:
            both = both.transpose(1, 2)
        return both[:1], both[1:]

    def _slice(self) -> tuple[NDArray[np.float32], tuple[float, float]]:
        """Draw a slice that shows the head, along any axis with fine slices; also return the sides of its pixels."""
        rng = self.rng
        number = int(rng.integers(len(self.cases)))
        case, shown = self.cases[number], self.shown[number]
        axis = int(rng.integers(3)) if len(shown) == 3 else 2
        across, down = (side for n, side in enumerate(case.spacing_mm) if n != axis)
        return np.take(case.image, int(rng.choice(shown[axis])), axis), (across, down)

    def batch(self, size: int) -> tuple[Tensor, Tensor]:
        """Draw a batch of pairs: two (batch, channel, i, j)."""
        truncated, clean = zip(*(self.draw() for _ in range(size)), strict=True)
        return torch.stack(truncated), torch.stack(clean)


_KNOTS = np.array([0.0, 0.25, 0.5, 0.75, 1.0], np.float32)


def _redrawn(image: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Map intensities to a random contrast: air stays 0, four levels above it are drawn, values between are
    interpolated."""
    levels = np.concatenate([[0.0], rng.uniform(0.1, 1.1, len(_KNOTS) - 1)])
    # values above the range are shifted like its upper end; noise below 0 is unchanged
    drawn: NDArray[np.float32] = np.interp(image, _KNOTS, levels).astype(np.float32)
    return drawn + np.maximum(image - 1, 0) + np.minimum(image, 0)


def _scaled(case: SliceStack, percentiles: tuple[float, float]) -> SliceStack:
    low, high = percentile_range(case.image, percentiles)
    return SliceStack(case.name, (case.image - low) / (high - low), case.spacing_mm)


def _shown(case: SliceStack) -> dict[int, NDArray[np.intp]]:
    """Return the slices that show the head, for each axis with fine slices; the middle slice if there are none."""
    even = max(case.spacing_mm) < _EVEN * min(case.spacing_mm)
    found = {}
    for axis in range(3) if even else (2,):
        others = tuple(n for n in range(3) if n != axis)
        slices = np.flatnonzero((case.image > _HEAD).mean(others) > _SHARE)
        found[axis] = slices if len(slices) else np.array([case.image.shape[axis] // 2])
    return found
