"""Filling of contours: a voxel belongs to an ROI where its centre lies inside a contour, within the slab of the
contour's plane.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from medvit.io.labels.contour_overlaps import fill_union, shared_by_crossing, without_duplicates
from medvit.io.labels.grid_mapping import MaskBuilder
from medvit.io.labels.label_set import Grid
from medvit.io.polygon_masks import fill_polygons

__all__ = ["Contour", "RasterizedRoi", "fill", "plane_distance"]

_FLAT_MM = 0.1
"""Largest distance of points from their contour's plane, in mm; planning systems round to 0.01 mm."""

_ALONG = 0.05
"""Largest distance, in voxels, of a contour from a plane of the grid that still contains it."""

_ON_SLICE = 0.1
"""Largest distance, in slices, of contours from the slice to which they belong."""

_MIDWAY = 0.02
"""Offset, in slices, that assigns a slice midway between two planes to one of them; larger than the rounding of
coordinates.
"""

_ROUND = 3
"""Decimals, in voxels, to which points are rounded, so that a contour drawn through pixel centres passes exactly
through them.
"""

_SAME_MM = 0.05
"""Distance, in mm, below which planes count as one: coordinates are rounded, and slices are thicker."""

_PARALLEL = 0.999
"""Smallest cosine of two normals that count as parallel; small contours define theirs only roughly."""


@dataclass(frozen=True, eq=False)
class Contour:
    """A closed contour.

    Attributes:
        points: (point, axis) in RAS+ millimetres.
        parity: True for CLOSEDPLANAR_XOR, whose contours are combined by parity alone (PS3.3 C.8.8.6.3).
    """

    points: NDArray[np.float64]
    parity: bool = False

    @cached_property
    def normal(self) -> NDArray[np.float64]:
        """Unit normal of the best-fitting plane, with its largest component positive."""
        centred = self.points - self.points.mean(0)
        axis: NDArray[np.float64] = np.linalg.svd(centred, full_matrices=False)[2][-1]
        sign = np.sign(axis[np.abs(axis).argmax()])
        return axis * (sign or 1.0)

    @property
    def flat(self) -> bool:
        """True where all points lie in one plane."""
        return bool(np.ptp(self.points @ self.normal) <= _FLAT_MM)


@dataclass(kw_only=True)
class RasterizedRoi:
    """The mask of a filled ROI, with counts for flags and notes.

    Attributes:
        pieces: the mask.
        off: number of contours beyond the grid.
        bent: number of contours that are not flat.
        cut: True where a contour extends beyond the grid's edge.
        between: True where a contour between slices, or oblique to them, fills a slab.
        gaps: number of slices without contour between the first and the last.
        parity: True where contours are combined by parity alone.
        twice: number of repeated contours.
        crossing: True where contours of one plane cross; their common area then belongs to the ROI.
    """

    pieces: MaskBuilder
    off: int = 0
    bent: int = 0
    cut: bool = False
    between: bool = False
    gaps: int = 0
    parity: bool = False
    twice: int = 0
    crossing: bool = False


def plane_distance(contours: Sequence[Contour]) -> float:
    """Return the smallest distance, in mm, between neighbouring planes of parallel contours; 0 for a single plane."""
    smallest = np.inf
    left = sorted(contours, key=lambda contour: float(np.ptp(contour.points, axis=0).max()))
    while left:
        normal = left[-1].normal  # the widest contour defines the normal most exactly
        places = [float(c.points.mean(0) @ normal) for c in left if c.normal @ normal > _PARALLEL]
        left = [c for c in left[:-1] if c.normal @ normal <= _PARALLEL]
        gaps = np.diff(np.sort(places))
        smallest = min(smallest, float(gaps[gaps > _SAME_MM].min(initial=np.inf)))
    return smallest if np.isfinite(smallest) else 0.0


def fill(contours: Sequence[Contour], grid: Grid, apart_mm: float) -> RasterizedRoi:
    """Fill the closed contours of one ROI.

    Args:
        contours: all contours of the ROI.
        grid: the grid of the mask.
        apart_mm: distance between the file's contour planes; 0 to fill only the slice on which each contour lies, as on
            the series it was drawn on.
    """
    found = RasterizedRoi(pieces=MaskBuilder(grid.shape), parity=any(contour.parity for contour in contours))
    if not found.parity:
        once = without_duplicates(contours, [contour.points for contour in contours])
        found.twice, contours = len(contours) - len(once), once
    inverse = np.linalg.inv(grid.affine)
    along: dict[int, list[NDArray[np.float64]]] = defaultdict(list)
    across = []
    for contour in contours:
        index = np.round(contour.points @ inverse[:3, :3].T + inverse[:3, 3], _ROUND)
        axis = int(np.ptp(index, axis=0).argmin())
        if np.ptp(index[:, axis]) <= _ALONG:
            along[axis].append(index)
        elif contour.flat:
            across.append(contour)
        else:
            found.bent += 1
    for axis, polygons in along.items():
        side = float(np.linalg.norm(grid.affine[:3, axis]))
        _fill_along(polygons, axis, apart_mm / side, found)
    if across:
        found.between = True
        _fill_across(across, grid, apart_mm, found)
    return found


def _fill_along(polygons: list[NDArray[np.float64]], axis: int, apart: float, found: RasterizedRoi) -> None:
    """Fill contours in planes of the grid: each slice takes those in its plane, or the nearest within its slab."""
    shape = found.pieces.shape
    flat = [a for a in range(3) if a != axis]
    planes: dict[float, list[NDArray[np.float64]]] = defaultdict(list)
    for points in polygons:
        planes[round(float(points[:, axis].mean()), 2)].append(points[:, flat])
    places = np.array(sorted(planes))
    own = not apart or abs(apart - 1) <= _ON_SLICE
    if own and np.abs(places - np.rint(places)).max() <= _ON_SLICE:
        chosen: dict[int, list[NDArray[np.float64]]] = defaultdict(list)
        for place in places.tolist():
            chosen[round(place)] += planes[place]
        found.gaps += max(chosen) - min(chosen) + 1 - len(chosen)
    else:
        found.between = True
        chosen = _slabs(planes, apart or 1.0, shape[axis])
    for k, outlines in chosen.items():
        if not 0 <= k < shape[axis]:
            continue
        plane = (shape[flat[0]], shape[flat[1]])
        mask, crossing = (fill_polygons(outlines, plane), False) if found.parity else fill_union(outlines, plane)
        found.crossing |= crossing
        start = [0, 0, 0]
        start[axis] = k
        found.pieces.add(start, np.expand_dims(mask, axis))
    beyond = (places < -0.5) | (places >= shape[axis] - 0.5)
    found.off += sum(len(planes[place]) for place in places[beyond].tolist())
    for place in places[~beyond].tolist():
        _judge_edges(planes[place], (shape[flat[0]], shape[flat[1]]), found)


def _judge_edges(outlines: list[NDArray[np.float64]], shape: tuple[int, int], found: RasterizedRoi) -> None:
    for points in outlines:
        low, high = points.min(0), points.max(0)
        if (high < -0.5).any() or (low > np.array(shape) - 0.5).any():
            found.off += 1
        elif (low < -0.51).any() or (high > np.array(shape) - 0.49).any():
            found.cut = True


def _slabs(
    planes: dict[float, list[NDArray[np.float64]]], apart: float, count: int
) -> dict[int, list[NDArray[np.float64]]]:
    """Return the contours of each slice: those of the nearest plane, at most half a plane distance away."""
    chosen: dict[int, list[NDArray[np.float64]]] = {}
    places = np.array(sorted(planes))
    for k in range(count):
        # half-open interval: a slice midway belongs to the plane above, and only to that
        away = k + _MIDWAY - places
        nearest = float(places[np.abs(away).argmin()])
        if np.abs(away).min() <= apart / 2:
            # contours of one plane, whose positions may differ by rounding
            chosen[k] = [
                points for place in places[np.abs(places - nearest) < _ALONG].tolist() for points in planes[place]
            ]
    return chosen


def _planes(contours: Sequence[Contour]) -> list[list[Contour]]:
    """Group contours by plane, the widest of each group first."""
    groups: list[list[Contour]] = []
    for contour in sorted(contours, key=lambda c: -float(np.ptp(c.points, axis=0).max())):
        for group in groups:
            away = (contour.points.mean(0) - group[0].points.mean(0)) @ group[0].normal
            if contour.normal @ group[0].normal > _PARALLEL and abs(away) < _FLAT_MM:
                group.append(contour)
                break
        else:
            groups.append([contour])
    return groups


def _fill_across(contours: list[Contour], grid: Grid, apart_mm: float, found: RasterizedRoi) -> None:
    """Fill contours in planes oblique to the grid: voxel centres within the slab are projected onto the plane."""
    from skimage.measure import points_in_poly

    slab = apart_mm or float(np.linalg.norm(grid.affine[:3, :3], axis=0).min())
    inverse = np.linalg.inv(grid.affine)
    for group in _planes(contours):
        points = np.concatenate([contour.points for contour in group])
        normal, middle = group[0].normal, float(points.mean(0) @ group[0].normal)
        reach = np.concatenate([points + normal * slab / 2, points - normal * slab / 2])
        index = reach @ inverse[:3, :3].T + inverse[:3, 3]
        raw_low, raw_high = np.floor(index.min(0)).astype(int), np.ceil(index.max(0)).astype(int) + 1
        low, high = np.maximum(raw_low, 0), np.minimum(raw_high, grid.shape)
        if (high <= low).any():
            found.off += len(group)
            continue
        found.cut |= bool((raw_low < -1).any() or (raw_high > np.array(grid.shape) + 1).any())
        index = _near_plane(grid, (low, high), (normal, middle, slab))
        centres = index @ grid.affine[:3, :3].T + grid.affine[:3, 3]
        basis = np.linalg.svd(normal[None])[2][1:]  # two directions in the plane
        masks = np.stack([points_in_poly(centres @ basis.T, contour.points @ basis.T) for contour in group])
        inside = np.logical_xor.reduce(masks, 0)
        shared = None if found.parity else shared_by_crossing(masks)
        if shared is not None:
            found.crossing, inside = True, inside | shared
        mask = np.zeros(high - low, dtype=bool)
        mask[tuple((index[inside] - low).T)] = True
        found.pieces.add([int(v) for v in low], mask)


def _near_plane(
    grid: Grid, box: tuple[NDArray[np.int64], NDArray[np.int64]], plane: tuple[NDArray[np.float64], float, float]
) -> NDArray[np.int64]:
    """Return the indices (n, 3) of the voxels in a box whose centres lie within a slab.

    Each column of voxels along the axis that crosses the slab fastest is handled separately, so the box may be large.

    Args:
        grid: the grid.
        box: first and one past the last index.
        plane: unit normal, distance along it and thickness, in millimetres.
    """
    (low, high), (normal, middle, slab) = box, plane
    slope = grid.affine[:3, :3].T @ normal
    start = float(grid.affine[:3, 3] @ normal) - middle
    axis = int(np.abs(slope).argmax())
    if slope[axis] < 0:
        slope, start = -slope, -start
    p, q = (a for a in range(3) if a != axis)
    first, second = np.meshgrid(np.arange(low[p], high[p]), np.arange(low[q], high[q]), indexing="ij")
    rest = start + slope[p] * first + slope[q] * second
    deepest = np.ceil((-slab / 2 - rest) / slope[axis]).astype(np.int64)
    found = []
    for step in range(int(np.ceil(slab / slope[axis])) + 1):
        k = deepest + step
        taken = (k >= low[axis]) & (k < high[axis]) & (rest + slope[axis] * k < slab / 2)
        index = np.empty((int(taken.sum()), 3), np.int64)
        index[:, p], index[:, q], index[:, axis] = first[taken], second[taken], k[taken]
        found.append(index)
    return np.concatenate(found)
