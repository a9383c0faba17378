"""Which voxels of a grid each voxel of the output lies between, axis by axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Axis", "axes"]


@dataclass(frozen=True)
class Axis:
    """One axis of the output that a box of the grid covers.

    Attributes:
        first: the first output index that falls in the box.
        low: (out,) int64, the neighbour below within the box.
        high: (out,) int64, the neighbour above.
        weight: (out,) float32, of the neighbour above.
    """

    first: int
    low: Tensor
    high: Tensor
    weight: Tensor

    @property
    def inside(self) -> slice:
        """Output indices that fall in the box."""
        return slice(self.first, self.first + len(self.low))


def _axis(length: int, grid: int, start: int, out: int) -> Axis:
    position = (torch.arange(out, dtype=torch.float64) + 0.5) * (grid / out) - 0.5
    # the half voxel at the grid's own edge is covered by its first and last voxel
    position = position.clamp(0, grid - 1) - start
    inside = torch.nonzero((position >= -0.5) & (position <= length - 0.5))[:, 0]
    position = position[inside].clamp(0, length - 1)
    low = position.floor().long()
    high = (low + 1).clamp(max=length - 1)
    return Axis(int(inside[0]) if len(inside) else 0, low, high, (position - low).float())


def axes(box: Sequence[int], grid: Sequence[int], start: Sequence[int], out: Sequence[int]) -> tuple[Axis, Axis, Axis]:
    """The three axes of an output that covers the same extent as the grid, of which the box is a part."""
    x, y, z = (_axis(*sizes) for sizes in zip(box, grid, start, out, strict=True))
    return x, y, z
