"""Encoding of real values as stored pixels: with the source's rescale and type where the values fit, else with a larger
type.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from medvit.io.dicom.header import frame_scaling, functional_group, shared_groups
from medvit.io.dicom.write.source_images import SourceImages

__all__ = ["PHILIPS_SLOPE", "PixelEncoding", "has_rescale", "plan_storage", "scale_group"]

PHILIPS_SLOPE = 0x2005100E
"""Tag of Philips' private MR Scale Slope; a derived image has no private elements, so its values need a public rescale."""


@dataclass(frozen=True, kw_only=True)
class PixelEncoding:
    """Encoding of the slices of a derived series, with 16 bits allocated.

    Attributes:
        bits: BitsStored.
        signed: True for PixelRepresentation 1.
        scales: slope and intercept of each slice; real value = stored x slope + intercept.
        stated: True where slope and intercept are written; False where the source states none and needs none.
        kept: True where the rescale is the source's own.
    """

    bits: int
    signed: bool
    scales: tuple[tuple[float, float], ...]
    stated: bool
    kept: bool

    def stored(self, values: NDArray[np.float32], k: int) -> NDArray[np.integer]:
        """Encode the real values (column, row) of slice k as stored values (row, column)."""
        slope, intercept = self.scales[k]
        numbers = np.rint((values.T.astype(np.float64) - intercept) / slope)
        return np.ascontiguousarray(numbers.astype("<i2" if self.signed else "<u2"))


def scale_group(slices: SourceImages, k: int) -> Dataset:
    """Return the data set that states the rescale of slice k: its header, or its functional group."""
    header = slices.header(k)
    if not slices.frames:
        return header
    own = header.PerFrameFunctionalGroupsSequence[slices.frames[k]]
    found = functional_group(shared_groups(header), own, "PixelValueTransformationSequence")
    return header if found is None else found


def has_rescale(group: Dataset) -> bool:
    """Return True if a header or functional group states a usable rescale: slope and intercept, the slope other than 0."""
    stated = all(group.get(keyword) not in (None, "") for keyword in ("RescaleSlope", "RescaleIntercept"))
    return stated and group.RescaleSlope != 0


def _scale(slices: SourceImages, k: int) -> tuple[float, float, bool]:
    """Return slope, intercept, and True where the derived image can state them as they are."""
    header, group = slices.header(k), scale_group(slices, k)
    if header.get("ModalityLUTSequence"):
        return 1.0, 0.0, False
    slope, intercept = float(group.get("RescaleSlope") or 1), float(group.get("RescaleIntercept") or 0)
    philips = frame_scaling(header, slices.frames[k] if slices.frames else None, PHILIPS_SLOPE)
    if header.get("Modality") == "MR" and philips is not None and np.isfinite(philips) and philips > 0:
        return 1 / philips, intercept / (slope * philips), False
    return slope, intercept, group.get("RescaleSlope") != 0  # a slope of 0 was read as 1 and is not copied


def _fits(ranges: Sequence[tuple[float, float]], bits: int, signed: bool) -> bool:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return all(low <= np.rint(a) and np.rint(b) <= high for a, b in ranges)


def plan_storage(values: NDArray[np.float32], slices: SourceImages) -> PixelEncoding:
    """Choose the encoding that holds all values with the smallest change: none, 16 bits, a sign, and last a new
    rescale.

    Args:
        values: (column, row, slice), real values.
        slices: the source's slices, in the same order.
    """
    first = slices.first
    found = [_scale(slices, k) for k in range(values.shape[2])]
    scales = tuple((slope, intercept) for slope, intercept, _ in found)
    own = all(public for _, _, public in found)
    stated = (
        not own
        or any(scale != (1.0, 0.0) for scale in scales)
        or any("RescaleSlope" in scale_group(slices, k) for k in range(values.shape[2]))
    )
    extremes = [(float(values[:, :, k].min()), float(values[:, :, k].max())) for k in range(values.shape[2])]
    ranges: list[tuple[float, float]] = []
    for (low, high), (slope, intercept) in zip(extremes, scales, strict=True):
        ends = (low - intercept) / slope, (high - intercept) / slope
        ranges.append((min(ends), max(ends)))
    bits, signed = int(first.get("BitsStored") or 16), bool(first.get("PixelRepresentation"))
    own_bits = (bits,) if int(first.get("BitsAllocated") or 16) == 16 else ()
    for width, sign in (*((b, signed) for b in own_bits), (16, signed), (16, True)):
        if _fits(ranges, width, sign):
            return PixelEncoding(bits=width, signed=sign, scales=scales, stated=stated, kept=own)
    fresh = tuple(((high - low) / 65535 or 1.0, low) for low, high in extremes)
    return PixelEncoding(
        bits=16,
        signed=False,
        scales=tuple((float(f"{s:.9g}") * (1 + 1e-8), i) for s, i in fresh),
        stated=True,
        kept=False,
    )
