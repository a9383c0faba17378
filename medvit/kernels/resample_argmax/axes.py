"""Interpolation tables: the two grid voxels around each output voxel, and their weights, axis by axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Axis", "axes"]


@dataclass(frozen=True)
class Axis:
    """Interpolation table of one axis, for the output indices within the box.

    Attributes:
        first: first output index within the box.
        low: (out,) int64, index within the box of the neighbour below.
        high: (out,) int64, the neighbour above.
        weight: (out,) float32, weight of the neighbour above.
    """

    first: int
    low: Tensor
    high: Tensor
    weight: Tensor

    @property
    def inside(self) -> slice:
        """Output indices within the box."""
        return slice(self.first, self.first + len(self.low))


def _axis(length: int, grid: int, start: int, out: int) -> Axis:
    position = (torch.arange(out, dtype=torch.float64) + 0.5) * (grid / out) - 0.5
    # the first and last voxel of the grid also cover the half voxel between their centre and the edge
    position = position.clamp(0, grid - 1) - start
    inside = torch.nonzero((position >= -0.5) & (position <= length - 0.5))[:, 0]
    position = position[inside].clamp(0, length - 1)
    low = position.floor().long()
    high = (low + 1).clamp(max=length - 1)
    return Axis(int(inside[0]) if len(inside) else 0, low, high, (position - low).float())


def axes(box: Sequence[int], grid: Sequence[int], start: Sequence[int], out: Sequence[int]) -> tuple[Axis, Axis, Axis]:
    """Make the tables of the three axes; the output has the same extent as the grid, and the box is a part of the
    grid."""
    x, y, z = (_axis(*sizes) for sizes in zip(box, grid, start, out, strict=True))
    return x, y, z
