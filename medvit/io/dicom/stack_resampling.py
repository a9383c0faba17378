"""Resampling of tilted, shifted and uneven stacks to a regular grid, and of labels back to the original slices.

Values are interpolated linearly between neighbouring slices, and never extrapolated. All planes of a stack share their
directions, so each slice is only shifted within its plane and placed along the normal, without rotation; along a
direction without shift, pixels keep their values exactly.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medvit.errors import GeometryError
from medvit.io.dicom.preflight import Stack
from medvit.io.scan import StackGrid

__all__ = ["labels_to_slices", "plan_grid", "regular_runs", "resample_to_grid"]

_WIDEST_MM = 12.0
"""Widest gap, in millimetres, that is interpolated; clinical CT is rarely coarser."""

_LARGEST_GROWTH = 4
"""Largest ratio of the grid's voxels to the pixels of the slices."""

_ZERO = 1e-4
"""Shift, as a share of a pixel, below which a slice counts as not shifted."""


def plan_grid(stack: Stack, rows: int, columns: int) -> StackGrid:
    """Plan the regular grid: directions and pixels of the slices, spacing near the lower quartile of the gaps, same
    first and last slice.

    Raises:
        GeometryError: a gap is too wide to interpolate, or the slices hardly overlap.
    """
    gaps = np.diff(stack.distance)
    limit = max(_WIDEST_MM, 2.05 * float(np.median(gaps)))
    if gaps.max() > limit:
        at = int(gaps.argmax())
        raise GeometryError(
            (
                f"a gap of {gaps[at]:.1f} mm between the slices at {stack.distance[at]:.2f} and "
                f"{stack.distance[at + 1]:.2f} mm"
            ),
            f"at most {limit:.1f} mm are filled by interpolation",
            "Use {on_irregular=split} to take the regular parts.",
            option="on_irregular",
        )
    total = float(stack.distance[-1] - stack.distance[0])
    count = int(np.ceil(total / float(np.quantile(gaps, 0.25)) - 0.05)) + 1
    step = total / (count - 1)
    shift = (stack.positions - stack.positions[0]) @ stack.axes[:, :2] / np.array(stack.spacing_mm[:2])
    shift[np.abs(shift - np.rint(shift)) < _ZERO] = np.rint(shift[np.abs(shift - np.rint(shift)) < _ZERO])
    low, high = np.floor(shift.min(0)), np.ceil(shift.max(0))
    size = (columns + int(high[0] - low[0]), rows + int(high[1] - low[1]), count)
    if np.prod(size) > _LARGEST_GROWTH * rows * columns * max(count, len(gaps) + 1):
        raise GeometryError(
            (
                f"slices shifted so far that the straight grid around them has {size[0]}x{size[1]}x{size[2]} voxels for "
                f"slices of {columns}x{rows}"
            ),
            "they do not overlap enough to be one volume",
            "Choose another series.",
        )
    affine = np.eye(4)
    affine[:3, :3] = stack.axes * np.array([*stack.spacing_mm[:2], step])
    affine[:3, 3] = stack.positions[0] + affine[:3, :2] @ low
    along = (stack.distance - stack.distance[0]) / step
    return StackGrid(size, affine, np.column_stack([shift - low, along]))


def resample_to_grid(values: NDArray[np.float32], grid: StackGrid) -> NDArray[np.float32]:
    """Resample slices (column, row, slice) to the grid (i, j, k); NaN where no two slices enclose a voxel."""
    out = np.full(grid.shape, np.nan, np.float32)
    along = grid.place[:, 2]
    held: dict[int, NDArray[np.float32]] = {}
    for k in range(grid.shape[2]):
        below = int(np.clip(np.searchsorted(along, k + _ZERO) - 1, 0, len(along) - 1))
        above = min(below + 1, len(along) - 1)
        width = along[above] - along[below]
        weight = 0.0 if width <= 0 else float(np.clip((k - along[below]) / width, 0, 1))
        held = {n: held[n] if n in held else _shifted(values[:, :, n], grid, n) for n in (below, above)}
        near = weight < _ZERO or weight > 1 - _ZERO
        # a slice at exactly this position is used alone: NaN of a shifted neighbour must not erase its edge
        out[:, :, k] = (
            held[below if weight < 0.5 else above] if near else held[below] * (1 - weight) + held[above] * weight
        )
    return out


def _shifted(plane: NDArray[np.float32], grid: StackGrid, n: int) -> NDArray[np.float32]:
    """Shift one slice within its plane by whole and fractional pixels; NaN around it."""
    for axis in (0, 1):
        whole = int(np.floor(grid.place[n, axis]))
        part = float(grid.place[n, axis] - whole)
        around = [(0, 0), (0, 0)]
        around[axis] = (whole, grid.shape[axis] - plane.shape[axis] - whole)
        if part < _ZERO:
            plane = np.pad(plane, around, constant_values=np.nan)
            continue
        # a grid pixel lies between two of the slice; a smaller fraction gives more weight to the second
        around[axis] = (whole + 1, grid.shape[axis] - plane.shape[axis] - whole)
        wide = np.pad(plane, around, constant_values=np.nan)
        first = np.take(wide, range(grid.shape[axis]), axis)
        second = np.take(wide, range(1, grid.shape[axis] + 1), axis)
        plane = (first * np.float32(part) + second * np.float32(1 - part)).astype(np.float32)
    return plane


def labels_to_slices(labels: NDArray[np.integer], grid: StackGrid, size: tuple[int, int]) -> NDArray[np.integer]:
    """Map labels of the grid (i, j, k) to the original slices (column, row, slice).

    Each pixel takes the label with the largest weight among the up to eight grid voxels around its centre (trilinear
    weights). Weights are computed only where these voxels differ.
    """
    out = np.zeros((*size, len(grid.place)), labels.dtype)
    padded = np.pad(labels, [(0, 1)] * 3, mode="edge")
    for n, place in enumerate(grid.place):
        whole = np.floor(place + _ZERO).astype(int)
        part = np.clip(place - whole, 0, 1)
        part[part < _ZERO] = 0
        corners, weights = [], []
        for corner in np.ndindex(2, 2, 2):
            weight = float(np.prod(np.where(np.array(corner) == 1, part, 1 - part)))
            if weight > 0:
                i, j, k = whole + corner
                corners.append(padded[i : i + size[0], j : j + size[1], k])
                weights.append(weight)
        out[:, :, n] = _vote(np.stack(corners), np.array(weights))
    return out


def _vote(corners: NDArray[np.integer], weights: NDArray[np.float64]) -> NDArray[np.integer]:
    best: NDArray[np.integer] = corners[int(weights.argmax())].copy()
    disputed = np.flatnonzero((corners != corners[0]).any(0).ravel())
    if not len(disputed):
        return best
    votes = corners.reshape(len(corners), -1)[:, disputed]
    chosen = best.ravel()[disputed]
    highest = (weights[:, None] * (votes == chosen)).sum(0)
    for label in np.unique(votes):
        share = (weights[:, None] * (votes == label)).sum(0)
        better = share > highest + 1e-9
        chosen[better], highest[better] = label, share[better]
    best.ravel()[disputed] = chosen  # a view: best is a fresh, contiguous copy
    return best


def regular_runs(stack: Stack) -> list[range]:
    """Split a stack into runs of evenly spaced slices, in order; each slice belongs to exactly one run."""
    gaps = np.diff(stack.distance)
    runs, start = [], 0
    while start < len(gaps):
        end = start
        while end < len(gaps) and abs(gaps[end] - gaps[start]) <= 0.05 * gaps[start]:
            end += 1
        runs.append(range(start, end + 1))
        start = end + 1
    if start == len(gaps):
        runs.append(range(start, start + 1))
    return runs
