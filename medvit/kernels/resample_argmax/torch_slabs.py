"""Plain PyTorch path: a few output planes at a time, on any device; also the path that exported graphs record.

``choose_on_grid`` serves images whose voxels are voxels of the grid, so that nothing is interpolated.
"""

from __future__ import annotations

import torch
from torch import Tensor

from medvit.kernels.resample_argmax.axes import Axis

__all__ = ["choose", "choose_on_grid", "is_on_grid"]

_SLAB = 8
"""Number of output planes computed at a time; it limits memory to classes x 8 planes for volumes of any length."""

_SMALL = 2**25
"""Largest number of logits for which a plain argmax takes less time than the import of numba."""


def _along(values: Tensor, axis: int, at: Axis, part: slice = slice(None)) -> Tensor:
    shape = [1] * values.ndim
    shape[axis] = -1
    low, high, weight = (t[part].to(values.device) for t in (at.low, at.high, at.weight))
    return torch.lerp(values.index_select(axis, low), values.index_select(axis, high), weight.view(shape))


def choose(logits: Tensor, x: Axis, y: Axis, z: Axis, out: Tensor) -> None:
    """Write the class with the largest interpolated logit, (class, *box), into the part of ``out`` that the box
    covers."""
    for first in range(0, len(x.low), _SLAB):
        part = slice(first, first + _SLAB)
        needed = logits[:, int(x.low[part][0]) : int(x.high[part][-1]) + 1].float()
        moved = Axis(0, x.low - int(x.low[part][0]), x.high - int(x.low[part][0]), x.weight)
        slab = _along(_along(_along(needed, 1, moved, part), 2, y), 3, z)
        at = x.first + first
        out[at : at + slab.shape[1], y.inside, z.inside] = slab.argmax(0).to(out.dtype)


def is_on_grid(logits: Tensor, x: Axis, y: Axis, z: Axis) -> bool:
    """Return True if every output voxel is a voxel of the grid and the logits are few enough for a plain argmax."""
    return logits.numel() <= _SMALL and not any(bool(axis.weight.any()) for axis in (x, y, z))


def choose_on_grid(logits: Tensor, x: Axis, y: Axis, z: Axis, out: Tensor) -> None:
    """Write the class with the largest logit, (class, *box), into the part of ``out`` that the box covers.

    Every path gives these labels where ``is_on_grid`` holds, since all weights of the interpolation are 0.
    """
    for first in range(0, len(x.low), _SLAB):
        planes = logits[:, x.low[first : first + _SLAB]].float()
        picked = planes.index_select(2, y.low).index_select(3, z.low)
        at = x.first + first
        out[at : at + picked.shape[1], y.inside, z.inside] = picked.argmax(0).to(out.dtype)
