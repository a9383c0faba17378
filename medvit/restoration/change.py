"""Measures of a restoration's change: noise before and after, shift, edges. They are measured in at most 32 slices.

Noise is the local standard deviation in a square of about 6 mm (an odd number of pixels, at least 3) whose mean in the
source is in the tissue range. The noise of the source is its most frequent value, since edges and texture only make
values larger (after O. Christianson, J. Winslow, D. P. Frush, E. Samei, "Automated technique to measure noise in
clinical CT examinations", AJR 205(1), 2015, whose range for soft tissue, 0 to 100 HU, is used for HU). The noise
afterwards is this value times the median ratio of the deviations after and before in the same squares, where the source
shows little but noise. If no unit is stated, the range is from Otsu's threshold of the squares' means to their 99th
percentile.

Shift is the mean of restored minus source over soft tissue. Soft tissue is found in the restored image, which has less
noise: squares of about 6 mm with every pixel in the soft-tissue range, since an edge, half tissue and half air, has no
mean to keep. Pixels are weighted by the inverse of the variance of the removed noise around them plus half of its usual
variance: where few photons arrived, the source itself is off by tens of HU, and a restoration that corrects this is not
a shift.

Edges are measured by gradients of Gaussians of one pixel, where the source's gradient per pixel exceeds its noise
level, about five times the gradient of noise alone. Strength is the slope of the restored gradients over the source's:
1 means edges as steep as before, less means blur. Noise in the source lowers it by some per cent.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d, minimum_filter, uniform_filter

__all__ = ["Change", "SliceChange", "measure_change"]

_SIDE_MM = 6.0
_TISSUE_HU, _SOFT_HU = (0.0, 100.0), (-200.0, 200.0)
_MOST_SLICES = 32
_FLAT = 3.0
"""Local deviations up to this multiple of the noise are tissue, larger ones edges."""
_FEWEST = 100
"""Smallest number of squares for which a most frequent value is meaningful."""


@dataclass(frozen=True)
class SliceChange:
    """Change of one slice; None where it shows too little tissue.

    Attributes:
        slice: number of the slice, from 0, in the order of the stack.
        noise_before, noise_after: noise in the image's unit.
        mean_difference: mean of restored minus source in soft tissue.
    """

    slice: int
    noise_before: float | None
    noise_after: float | None
    mean_difference: float | None


@dataclass(frozen=True, kw_only=True)
class Change:
    """Change of a whole image, in the image's unit; None where it shows too little tissue.

    Attributes:
        unit: unit of the values.
        slices_measured, slices: number of slices measured, and in the image.
        square_pixels: side of the square in which noise was measured.
        tissue_range: range of values in which noise was measured.
        soft_tissue_range: range of values in which shift and soft-tissue edges were measured.
        noise_before, noise_after: most frequent local standard deviation of the source, and its value after restoration
            in the same squares.
        mean_difference: the shift, the mean of restored minus source in soft tissue away from edges, see above.
        noise_removed: median of the local deviations of restored minus source in that tissue.
        mean_absolute_difference, largest_difference: over all voxels measured.
        edge_strength, edge_strength_soft_tissue: 1 where edges are as steep as before; of all edges, and of those in
            soft tissue.
        per_slice: the change of each slice measured.

    Examples:
        >>> import numpy as np
        >>> from medvit.restoration import measure_change
        >>> noisy = np.random.default_rng(0).normal(50, 10, (64, 64, 2)).astype(np.float32)
        >>> measure_change(noisy, 50 + (noisy - 50) / 2, (1.0, 1.0), "HU").noise_reduction_percent
        50.0
    """

    unit: str
    slices_measured: int
    slices: int
    square_pixels: int
    tissue_range: tuple[float, float]
    soft_tissue_range: tuple[float, float]
    noise_before: float | None
    noise_after: float | None
    mean_difference: float | None
    mean_absolute_difference: float
    largest_difference: float
    edge_strength: float | None
    edge_strength_soft_tissue: float | None
    per_slice: tuple[SliceChange, ...]
    noise_removed: float | None = None

    @property
    def noise_reduction_percent(self) -> float | None:
        """Share of the noise that was removed, in per cent."""
        if not self.noise_before or self.noise_after is None:
            return None
        return round(100 * (1 - self.noise_after / self.noise_before), 1)


@dataclass(frozen=True, eq=False)
class _Pair:
    """A slice before and after, (column, row) float64, and the source's local means and deviations."""

    number: int
    before: NDArray[np.float64]
    after: NDArray[np.float64]
    side: int

    @cached_property
    def local(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return _local(self.before, self.side)

    def within(self, bounds: tuple[float, float]) -> NDArray[np.bool_]:
        mean = self.local[0]
        found: NDArray[np.bool_] = (mean >= bounds[0]) & (mean <= bounds[1])
        return found

    def shift(self, soft: tuple[float, float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return after minus before in soft tissue away from edges, and the local deviation of that difference."""
        inside = ((self.after >= soft[0]) & (self.after <= soft[1])).astype(np.uint8)
        inner = minimum_filter(inside, self.side, mode="constant", cval=0) > 0
        difference = self.after - self.before
        deviation = _local(difference, 2 * self.side - 1)[1]
        inner &= np.isfinite(deviation)
        return difference[inner], deviation[inner]


def measure_change(
    before: NDArray[np.float32], after: NDArray[np.float32], pixel_mm: tuple[float, float], unit: str
) -> Change:
    """Measure the change from an image to its restored version.

    Args:
        before, after: (column, row, slice) on one grid, in the image's unit.
        pixel_mm: sides of a pixel along column and row index.
        unit: "HU" for the ranges of CT; for any other unit the ranges are found from the image.

    Returns:
        The change of the whole image and of each slice measured.

    Examples:
        >>> import numpy as np
        >>> from medvit.restoration import measure_change
        >>> image = np.random.default_rng(0).normal(50, 10, (64, 64, 2)).astype(np.float32)
        >>> measure_change(image, image + 3, (1.0, 1.0), "HU").mean_difference
        3.0
    """
    pairs = list(_pairs(before, after, _side(pixel_mm)))
    tissue, soft = (_TISSUE_HU, _SOFT_HU) if unit == "HU" else _own_ranges(pairs)
    masks = [pair.within(tissue) for pair in pairs]
    was = [pair.local[1][mask] for pair, mask in zip(pairs, masks, strict=True)]
    now = [_local(pair.after, pair.side)[1][mask] for pair, mask in zip(pairs, masks, strict=True)]
    noise = _noise(np.concatenate(was), np.concatenate(now))
    softly = [pair.within(soft) for pair in pairs]
    shifts = [pair.shift(soft) for pair in pairs]
    removed = np.concatenate([deviation for _, deviation in shifts])
    usual = float(np.median(removed)) if len(removed) else None
    noises = [_noise(a, b) for a, b in zip(was, now, strict=True)]
    rows = [
        SliceChange(p.number, _rounded(a), _rounded(b), _weighted(*s, usual))
        for p, (a, b), s in zip(pairs, noises, shifts, strict=True)
    ]
    whole, inner = _edges(pairs, softly, noise[0] or 0.0)
    changes = np.concatenate([np.abs(p.after - p.before).ravel() for p in pairs])
    return Change(
        unit=unit,
        slices_measured=len(pairs),
        slices=before.shape[2],
        square_pixels=pairs[0].side,
        tissue_range=tissue,
        soft_tissue_range=soft,
        noise_before=_rounded(noise[0]),
        noise_after=_rounded(noise[1]),
        mean_difference=_weighted(np.concatenate([difference for difference, _ in shifts]), removed, usual),
        mean_absolute_difference=round(float(changes.mean()), 3),
        largest_difference=round(float(changes.max()), 3),
        edge_strength=whole,
        edge_strength_soft_tissue=inner,
        per_slice=tuple(rows),
        noise_removed=_rounded(usual),
    )


def _side(pixel_mm: tuple[float, float]) -> int:
    """Return the odd number of pixels nearest to the square's side, at least 3, since fewer would be too few."""
    pixels = _SIDE_MM / float(np.sqrt(pixel_mm[0] * pixel_mm[1]))
    return max(3, 2 * round((pixels - 1) / 2) + 1)


def _pairs(before: NDArray[np.float32], after: NDArray[np.float32], side: int) -> Iterator[_Pair]:
    depth = before.shape[2]
    chosen = np.unique(np.linspace(0, depth - 1, min(depth, _MOST_SLICES)).round().astype(int))
    for k in chosen:
        yield _Pair(int(k), before[:, :, k].astype(np.float64), after[:, :, k].astype(np.float64), side)


def _local(plane: NDArray[np.float64], side: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and standard deviation of the square around each pixel; NaN where the square crosses the edge."""
    middle = float(plane.mean())  # subtracted to avoid cancellation
    mean = uniform_filter(plane - middle, side)
    square = uniform_filter((plane - middle) ** 2, side)
    count = side**2
    std = np.sqrt(np.maximum(square - mean**2, 0) * count / (count - 1))
    mean = mean + middle
    reach = side // 2
    inside = np.zeros(plane.shape, bool)
    inside[reach : plane.shape[0] - reach, reach : plane.shape[1] - reach] = True
    return np.where(inside, mean, np.nan), np.where(inside, std, np.nan)


def _own_ranges(pairs: list[_Pair]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return the range from Otsu's threshold (IEEE Trans. SMC 9(1), 1979) of the local means to their 99th
    percentile."""
    from skimage.filters import threshold_otsu

    means = np.concatenate([pair.local[0][np.isfinite(pair.local[0])] for pair in pairs])
    if not len(means) or means.min() == means.max():
        return (0.0, 0.0), (0.0, 0.0)
    found = round(float(threshold_otsu(means)), 3), round(float(np.percentile(means, 99)), 3)
    return found, found


def _most_frequent(values: NDArray[np.float64]) -> float | None:
    """Return the mode, from a histogram of 100 bins up to twice the median, smoothed by three boxes of five bins."""
    values = values[np.isfinite(values)]
    if len(values) < _FEWEST:
        return None
    top = 2 * float(np.median(values))
    if top <= 0:
        return 0.0
    counts, ends = np.histogram(values, 100, (0, top))
    smooth = counts.astype(float)
    for _ in range(3):
        smooth = np.convolve(smooth, np.ones(5) / 5, "same")
    at = int(smooth.argmax())
    return float((ends[at] + ends[at + 1]) / 2)


def _noise(was: NDArray[np.float64], now: NDArray[np.float64]) -> tuple[float | None, float | None]:
    """Return the most frequent deviation before, and after: the first times the median ratio of the squares'
    deviations.

    Only squares with little but noise are used. The mode of the deviations after is not used, since it is unstable: in
    few squares of coarse pixels there are two modes of about the same height. It is used only where the source has no
    noise.
    """
    noise = _most_frequent(was)
    flat = np.isfinite(was) & (was > 0) & (was <= _FLAT * (noise or 0.0))
    if not flat.any():
        return noise, None if noise is None else _most_frequent(now)
    return noise, (noise or 0.0) * float(np.median(now[flat] / was[flat]))


def _gradient(plane: NDArray[np.float64]) -> NDArray[np.float64]:
    def along(axis: int) -> NDArray[np.float64]:
        return np.asarray(gaussian_filter1d(gaussian_filter1d(plane, 1.0, axis, 1), 1.0, 1 - axis, 0))

    return np.stack([along(0), along(1)])


def _edges(pairs: list[_Pair], softly: list[NDArray[np.bool_]], least: float) -> tuple[float | None, float | None]:
    """Return the slope of the restored gradients over the source's at its edges: of all edges, and of those in soft
    tissue."""
    both, own = np.zeros(2), np.zeros(2)
    for pair, soft in zip(pairs, softly, strict=True):
        was, now = _gradient(pair.before), _gradient(pair.after)
        square = (was**2).sum(0)
        product = (was * now).sum(0)
        for n, mask in enumerate((square > least**2, (square > least**2) & soft)):
            both[n] += float(product[mask].sum())
            own[n] += float(square[mask].sum())
    whole, inner = (round(float(b / o), 3) if o > 0 else None for b, o in zip(both, own, strict=True))
    return whole, inner


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _weighted(values: NDArray[np.float64], deviation: NDArray[np.float64], usual: float | None) -> float | None:
    """Return the weighted mean; values with more noise around them have less weight."""
    if not len(values) or usual is None:
        return None
    weights = 1 / (deviation**2 + usual**2 / 2) if usual > 0 else np.ones_like(values)
    return round(float((weights * values).sum() / weights.sum()), 3)
