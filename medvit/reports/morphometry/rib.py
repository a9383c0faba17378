"""Measures of a rib: length along its centre line, and distance between its ends.

The ends are the two voxels farthest from each other on paths within the bone. The centre line connects the mean
positions of voxels at equal path length from one end. The chord is the span between a rib's ends of S. A. Holcombe et
al., J. Biomech. 49(13), 2016.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medvit.io import spacing_mm, world
from medvit.reports.morphometry.body import Body, unit
from medvit.reports.morphometry.measured import StructureMeasures

__all__ = ["measure_rib"]

_SLENDER = 5.0
"""Smallest ratio of length to thickness of a rib."""

_CUT = "the rib reaches the edge of the field; part of it may be missing"


def measure_rib(body: Body) -> StructureMeasures:
    """Measure arc length and chord."""
    found = StructureMeasures("rib")
    line = _CUT if body.cut else _centre_line(body)
    if isinstance(line, str):
        found.put("arc_mm", line)
        found.put("chord_mm", line)
        return found
    found.put("arc_mm", float(np.linalg.norm(np.diff(_smooth(line), axis=0), axis=1).sum()))
    found.put("chord_mm", float(np.linalg.norm(line[-1] - line[0])))
    return found


def _ways(body: Body, start: NDArray[np.intp]) -> NDArray[np.float64]:
    """Compute the path length in mm from a voxel to each voxel of the bone, (i, j, k); infinite outside."""
    from skimage.graph import MCP_Geometric

    costs = np.where(body.mask, 1.0, np.inf)
    sides = spacing_mm(body.affine)
    made: NDArray[np.float64] = MCP_Geometric(costs, sampling=sides).find_costs([tuple(int(n) for n in start)])[0]
    return np.where(body.mask, made, np.inf)


def _farthest(ways: NDArray[np.float64]) -> NDArray[np.intp]:
    return np.array(np.unravel_index(np.argmax(np.where(np.isfinite(ways), ways, -1.0)), ways.shape))


def _centre_line(body: Body) -> NDArray[np.float64] | str:
    """Return points from end to end, (n, 3) RAS+ mm, or the reason why there is no such line."""
    first = _farthest(_ways(body, np.argwhere(body.mask)[0]))
    ways = _ways(body, first)
    length = float(ways[body.mask].max())
    thick = float(np.sqrt(4 * body.mask.sum() * body.voxel_mm3 / max(length, 1e-9) / np.pi))
    if length < _SLENDER * thick:
        return f"it is {length:.0f} mm long and {thick:.0f} mm thick: no slender bone"
    count = max(7, int(length / max(thick, 2 * body.side_mm)))
    number = np.where(body.mask, np.minimum(ways / length * count, count - 1e-6), -1.0).astype(np.int64)
    middles = []
    for piece in range(count):
        part = (number == piece) & body.mask
        if ndimage.label(part, np.ones((3, 3, 3)))[1] != 1:
            return "it branches, or folds back on itself"
        middles.append(world(body.affine, np.argwhere(part).astype(np.float64)).mean(0))
    # slabs at the ends are skewed, since path lengths start at a corner of the end face
    inner = np.array(middles)[1:-1]
    return np.concatenate([[_end(body, inner[2::-1], thick)], inner, [_end(body, inner[-3:], thick)]])


def _end(body: Body, middles: NDArray[np.float64], thick: float) -> NDArray[np.float64]:
    """Return the point where the centre line leaves the bone, on the parabola through the last three mean positions.

    Args:
        body: the rib.
        middles: the last three mean positions, outermost last.
        thick: thickness of the rib, mm.
    """
    a, b, c = middles
    rise, bend = (3 * c - 4 * b + a) / 2, (a - 2 * b + c) / 2
    base, way = c + rise + bend, unit(rise + 2 * bend)  # one step on, and the direction there
    away = body.surface.vertices - base
    along = away @ way
    aside = np.linalg.norm(away - along[:, None] * way, axis=1)
    facing = (body.normals @ way > 0.7) & (np.abs(along) < 2 * thick)
    near = facing & (aside < max(thick / 3, body.side_mm))
    end: NDArray[np.float64] = base + way * (float(np.median(along[near])) if near.any() else 0.0)
    return end


def _smooth(line: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a fine cubic spline through the points of a line."""
    from scipy.interpolate import CubicSpline

    at = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    made: NDArray[np.float64] = CubicSpline(at, line)(np.linspace(0, at[-1], 10 * len(line)))
    return made
