"""Labels at full resolution from logits at network resolution, without full-resolution logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medvit.errors import ShapeError

__all__ = ["resample_argmax"]

_SLAB = 8
"""Output planes worked on at a time; bounds memory at classes x 8 planes whatever the volume's length."""


def _axis(length: int, grid: int, start: int, out: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """For one axis: output indices that fall in the box, their two neighbours within it and the upper weight."""
    position = (torch.arange(out, dtype=torch.float64) + 0.5) * (grid / out) - 0.5
    # the half voxel at the grid's own edge is covered by its first and last voxel
    position = position.clamp(0, grid - 1) - start
    inside = torch.nonzero((position >= -0.5) & (position <= length - 0.5))[:, 0]
    position = position[inside].clamp(0, length - 1)
    low = position.floor().long()
    high = (low + 1).clamp(max=length - 1)
    return inside, low, high, (position - low).float()


def _along(values: Tensor, axis: int, low: Tensor, high: Tensor, weight: Tensor) -> Tensor:
    shape = [1] * values.ndim
    shape[axis] = -1
    return torch.lerp(values.index_select(axis, low), values.index_select(axis, high), weight.view(shape))


def resample_argmax(
    logits: Tensor,
    *,
    out_shape: Sequence[int],
    grid_shape: Sequence[int] | None = None,
    start: Sequence[int] = (0, 0, 0),
    background: int = 0,
) -> Tensor:
    """The class with the largest trilinearly interpolated logit at each output voxel.

    The logits cover a box of a grid; grid and output cover the same extent (voxel centres at half-integers, as
    ``torch.nn.functional.interpolate`` with ``align_corners=False``). Interpolating logits and then choosing keeps
    boundaries smoother than nearest-neighbour labels; doing it slab by slab never holds class x full resolution.

    Args:
        logits: (class, depth, height, width) float, on the CPU.
        out_shape: (depth, height, width) of the result.
        grid_shape: size of the grid of which the logits are a box; None if they are all of it.
        start: first voxel of the box on the grid.
        background: class of output voxels more than half a voxel outside the box.

    Returns:
        (depth, height, width) uint8 (int16 above 255 classes).

    Raises:
        ShapeError: the box does not lie in the grid.
    """
    box = tuple(logits.shape[1:])
    grid = tuple(grid_shape) if grid_shape is not None else box
    if len(box) != 3 or any(s < 0 or s + b > g for s, b, g in zip(start, box, grid, strict=True)):
        raise ShapeError(
            f"Found logits of {box} starting at {tuple(start)} on a grid of {grid}; the box must lie within. Check the crop."
        )
    dtype = torch.uint8 if logits.shape[0] <= 256 else torch.int16
    out = torch.full(tuple(out_shape), background, dtype=dtype)
    (x_at, *x), (y_at, *y), (z_at, *z) = (_axis(*sizes) for sizes in zip(box, grid, start, out_shape, strict=True))
    if not (len(x_at) and len(y_at) and len(z_at)):
        return out
    rows = slice(int(y_at[0]), int(y_at[-1]) + 1)
    columns = slice(int(z_at[0]), int(z_at[-1]) + 1)
    low, high, weight = x
    for first in range(0, len(x_at), _SLAB):
        part = slice(first, first + _SLAB)
        slab = _along(logits.float(), 1, low[part], high[part], weight[part])
        slab = _along(_along(slab, 2, *y), 3, *z)
        at = int(x_at[first])
        out[at : at + slab.shape[1], rows, columns] = slab.argmax(0).to(dtype)
    return out
