"""The exact longest diameter of a label."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["longest_diameter"]

_ROWS = 1024
"""Number of points whose distances to all others are computed at once."""


def longest_diameter(inside: NDArray[np.bool_], axes: NDArray[np.float64]) -> float:
    """Compute the largest distance between two points of a label's surface.

    The surface is the mesh half-way between the centres of inside and outside voxels (IBSI's maximum 3D diameter,
    L0JK); its vertices are the centres of the voxels' outer faces. One voxel thus measures its longest side, and a row
    of n voxels n sides. Only vertices of the convex hull can be farthest apart; all of them are compared, so the result
    is exact.

    Args:
        inside: (i, j, k) mask with at least one voxel.
        axes: (3, 3), the step of each index in millimetres as a column.

    Returns:
        The diameter in millimetres.

    Examples:
        >>> import numpy as np
        >>> from medvit.reports import longest_diameter
        >>> longest_diameter(np.ones((3, 1, 1), dtype=bool), np.eye(3))
        3.0
    """
    from scipy.spatial import ConvexHull

    points = _faces(np.argwhere(_ends(inside))) @ axes.T
    return _farthest(points[ConvexHull(points).vertices])


def _ends(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the voxels that are first or last in their line along every axis, which include all corners of the convex
    hull.
    """
    kept = inside.copy()
    for axis, length in enumerate(inside.shape):
        ends = np.zeros_like(inside)
        first = np.expand_dims(inside.argmax(axis), axis)
        last = length - 1 - np.expand_dims(np.flip(inside, axis).argmax(axis), axis)
        np.put_along_axis(ends, first, True, axis)
        np.put_along_axis(ends, last, True, axis)
        kept &= ends
    return kept


def _faces(index: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the centres of the six faces of each voxel; with them, even a flat label has a hull with a volume."""
    steps = np.concatenate([np.eye(3), -np.eye(3)]) / 2
    return np.asarray((index[:, None] + steps).reshape(-1, 3))


def _farthest(points: NDArray[np.float64]) -> float:
    """Return the largest distance between any two of the points."""
    from scipy.spatial.distance import cdist

    centre = (points.min(0) + points.max(0)) / 2
    radius = np.linalg.norm(points - centre, axis=1)
    best, at = 0.0, points[radius.argmax()]
    for _ in range(4):  # step repeatedly to the farthest point: a good lower bound
        distance = np.linalg.norm(points - at, axis=1)
        best, at = max(best, float(distance.max())), points[distance.argmax()]
    # two points are at most the sum of their radii apart, so points near the centre cannot exceed the bound
    kept = points[radius >= best - radius.max() - 1e-6]
    for start in range(0, len(kept), _ROWS):
        best = max(best, float(cdist(kept[start : start + _ROWS], points).max()))
    return best
