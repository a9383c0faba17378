"""Movement and deformation of label maps: affine and elastic in one nearest-neighbour look-up."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from medvit.training.synthesis.settings import Pose

__all__ = ["flipped_ids", "sampled_labels", "sampling_grid", "smooth_field"]

Grid = tuple[Sequence[int], Sequence[float]]
"""Sizes and voxel sides in mm along right, anterior, superior."""


def _turn(angles: np.ndarray) -> np.ndarray:
    x, y, z = angles
    about_x = np.array([[1, 0, 0], [0, math.cos(x), -math.sin(x)], [0, math.sin(x), math.cos(x)]])
    about_y = np.array([[math.cos(y), 0, math.sin(y)], [0, 1, 0], [-math.sin(y), 0, math.cos(y)]])
    about_z = np.array([[math.cos(z), -math.sin(z), 0], [math.sin(z), math.cos(z), 0], [0, 0, 1]])
    turned: np.ndarray = about_x @ about_y @ about_z
    return turned


def smooth_field(channels: int, points: int | Sequence[int], size: Sequence[int], noise: torch.Generator) -> Tensor:
    """Draw normal numbers at a few points and interpolate linearly between them: (channels, *size) float32."""
    coarse = (points,) * 3 if isinstance(points, int) else tuple(points)
    at_points = torch.randn((1, channels, *coarse), generator=noise, device=noise.device)
    return F.interpolate(at_points, size=tuple(size), mode="trilinear", align_corners=True)[0]


def sampling_grid(
    pose: Pose, sample: Grid, source: Grid, flip: bool, drawn: tuple[np.random.Generator, torch.Generator]
) -> Tensor:
    """Compute the source voxel coordinates of a sample's voxels: (*size, 3) float32.

    The centre of the sample is that of the source, moved by a random shift.

    Args:
        pose: limits of the movement.
        sample: grid of the sample.
        source: grid of the label map.
        flip: reverse the first axis, left and right.
        drawn: random generators of parameters and of dense fields.
    """
    rng, noise = drawn
    (size, sides), (source_size, source_sides) = sample, source
    zoom = math.exp(rng.uniform(*np.log(pose.scale)))
    turn = _turn(np.deg2rad(rng.uniform(-pose.rotation_deg, pose.rotation_deg, 3)))
    mirror = np.diag([-1.0 if flip else 1.0, 1.0, 1.0])
    shift = rng.uniform(-pose.shift_mm, pose.shift_mm, 3)

    def tensor(values: np.ndarray) -> Tensor:
        return torch.as_tensor(values, dtype=torch.float32, device=noise.device)

    axes = [tensor((np.arange(n) - (n - 1) / 2) * s) for n, s in zip(size, sides, strict=True)]
    place = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    if pose.elastic_mm > 0:
        points = [max(2, round(n * s / pose.elastic_grid_mm) + 1) for n, s in zip(size, sides, strict=True)]
        place = place + pose.elastic_mm * smooth_field(3, points, size, noise).movedim(0, -1)
    in_source = place @ tensor(turn @ mirror / zoom).T + tensor(shift)
    middle = tensor((np.array(source_size) - 1) / 2)
    return in_source / tensor(np.array(source_sides)) + middle


def sampled_labels(labels: Tensor, grid: Tensor) -> Tensor:
    """Return the ids at the nearest voxels, int64 of the grid's size; 0 outside the map."""
    index = grid.round().long()
    shape = torch.tensor(labels.shape, device=labels.device)
    inside = ((index >= 0) & (index < shape)).all(-1)
    i, j, k = index.clamp_min(0).minimum(shape - 1).unbind(-1)
    return torch.where(inside, labels[i, j, k].long(), 0)


def flipped_ids(labels: Tensor, pairs: Sequence[tuple[int, int]]) -> Tensor:
    """Exchange the ids of right and left."""
    table = torch.arange(max(int(labels.max()), *(max(p) for p in pairs), 0) + 1, device=labels.device)
    for right, left in pairs:
        table[right], table[left] = left, right
    return table[labels]
