"""Positions of windows on an image, as MONAI 1.6's ``sliding_window_inference`` places and pads them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from medvit.errors import ShapeError

__all__ = ["Tiling", "tile"]


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """Windows on an image of one size.

    Attributes:
        spatial: image size in voxels.
        roi: window size in voxels.
        padded: image size after padding: at least a window along each axis.
        before: number of voxels padded before the image along each axis; the rest of the padding is after it.
        origins: (window, axis), the first voxel of each window in the padded image, the last axis fastest.
    """

    spatial: tuple[int, ...]
    roi: tuple[int, ...]
    padded: tuple[int, ...]
    before: tuple[int, ...]
    origins: Tensor

    def pad(self, image: Tensor, mode: str, value: float) -> Tensor:
        """Pad (batch, channel, *spatial) to (batch, channel, *padded).

        Raises:
            ShapeError: torch cannot pad so small an image in this mode.
        """
        if self.padded == self.spatial:
            return image
        sides = [
            n for s, p, b in zip(self.spatial, self.padded, self.before, strict=True) for n in (p - s - b, b)
        ]  # reversed below: torch takes the last axis first, and of each axis the near side first
        try:
            return F.pad(image, sides[::-1], mode=mode, value=value)
        except (RuntimeError, NotImplementedError, ValueError) as error:
            raise ShapeError(
                f"an image of {self.spatial}, which padding_mode={mode!r} cannot make {self.padded}: {error}",
                remedy="Use padding_mode='constant', or a smaller roi_size.",
            ) from error

    def crop(self, result: Tensor) -> Tensor:
        """Crop (..., *padded) to (..., *spatial)."""
        for axis, (size, first) in enumerate(
            zip(self.spatial, self.before, strict=True), result.ndim - len(self.spatial)
        ):
            result = result.narrow(axis, first, size)
        return result

    def box(self, window: int) -> tuple[slice, ...]:
        """Return the slices of a window in the padded image."""
        return tuple(slice(o, o + r) for o, r in zip(self.origins[window].tolist(), self.roi, strict=True))


def tile(
    spatial: Sequence[int], roi_size: Sequence[int | None] | int | None, overlap: Sequence[float] | float
) -> Tiling:
    """Compute the windows that cover an image.

    Args:
        spatial: image size in voxels.
        roi_size: window size, one number for all axes or one for each; None or a number below 1 takes the image's size.
        overlap: share of a window that the next one covers, for all axes or for each.

    Raises:
        ShapeError: the number of sizes or overlaps is not that of the axes.
    """
    for name, given in (("roi_size", roi_size), ("overlap", overlap)):
        if isinstance(given, Sequence) and len(given) != len(spatial):
            raise ShapeError(
                f"{name} {tuple(given)} for an image of {tuple(spatial)}",
                "one number for each axis after batch and channel is needed",
                f"Give {len(spatial)} numbers, or add the image's missing axes.",
            )
    given_sizes = zip(_each(roi_size, len(spatial)), spatial, strict=True)
    roi = tuple(int(size) if size is not None and size > 0 else int(whole) for size, whole in given_sizes)
    padded = tuple(max(s, r) for s, r in zip(spatial, roi, strict=True))
    shares = _each(overlap, len(spatial))
    steps = [r if r == p else max(1, int(r * (1 - o))) for r, p, o in zip(roi, padded, shares, strict=True)]
    starts = [_starts(*sizes) for sizes in zip(padded, roi, steps, strict=True)]
    return Tiling(
        spatial=tuple(spatial),
        roi=roi,
        padded=padded,
        before=tuple((p - s) // 2 for s, p in zip(spatial, padded, strict=True)),
        origins=torch.tensor(list(product(*starts))),
    )


def _each(value: Any, axes: int) -> tuple[Any, ...]:
    """Return one value for each axis; a single value is for all of them."""
    if hasattr(value, "tolist"):  # an array or tensor
        value = value.tolist()
    return tuple(value) if isinstance(value, Iterable) else (value,) * axes


def _starts(length: int, window: int, step: int) -> list[int]:
    """Return the first voxel of each window along an axis; the last window is moved back to end with the axis."""
    last = length - window
    return [*range(0, last, step), last]
