"""Conversion of 2-D masks to closed polygons and back.

Polygons run half-way between the centres of inside and outside pixels, slightly nearer to the inside. Filling them by
pixel centres therefore restores the mask exactly, also in a reader that first rounds each point to its nearest pixel. A
hole is joined to its outline by a channel of zero width (a keyhole, PS3.3 C.8.8.6.3), since readers fill every
CLOSED_PLANAR contour and would fill a separate contour of a hole as tissue.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["fill_polygon", "fill_polygons", "outline_mask"]

Polygon = NDArray[np.float64]

_LEVEL = 0.52
"""Position of an outline between outside (0) and inside (1); at 0.5, readers that round points would place them on
either side.
"""


_INSIDE = 1
"""Value of scikit-image's ``grid_points_in_poly`` for a strictly inner point; points on edges and corners have higher
values.
"""


def outline_mask(mask: NDArray[np.bool_]) -> list[Polygon]:
    """Trace the closed outlines of a 2-D mask.

    Returns:
        Polygons, each (point, axis) in index coordinates; the first point is not repeated at the end.
    """
    from skimage.measure import find_contours

    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return []
    # only the box around the mask is traced, with the coordinates, to the last bit, of the whole mask
    low = np.array([rows[0], columns[0]])
    padded = np.pad(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.uint8), 1)
    loops = [_moved(loop[:-1], low) - 1 for loop in find_contours(padded, _LEVEL)]
    areas = [_signed_area(loop) for loop in loops]
    # find_contours winds outlines and holes in opposite senses; the largest loop is an outline
    sign = np.sign(areas[int(np.argmax(np.abs(areas)))])
    outer = [loop for loop, area in zip(loops, areas, strict=True) if np.sign(area) == sign]
    sizes = [abs(_signed_area(loop)) for loop in outer]
    for loop, area in zip(loops, areas, strict=True):
        if np.sign(area) != sign:
            around = [n for n, o in enumerate(outer) if _inside(loop[0], o)]
            parent = min(around, key=lambda n: sizes[n])
            outer[parent] = _join(outer[parent], loop)
    return outer


def _moved(loop: Polygon, low: NDArray[np.int64]) -> Polygon:
    """Shift an outline by whole pixels; its coordinates are whole, or at ``_LEVEL`` from the outside or the inside."""
    whole = np.floor(loop)
    rest = loop - whole
    return np.asarray((whole + low) + np.where(rest < 0.25, 0.0, np.where(rest < 0.5, 1 - _LEVEL, _LEVEL)))


def fill_polygons(polygons: Sequence[Polygon], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return a mask of the pixels whose centres lie inside an odd number of polygons, or on the edge of any polygon.

    Holes may thus be separate contours or joined to their outline. Edges count as inside since many planning systems
    draw through the centres of the outermost pixels.

    Args:
        polygons: each (point, axis) in index coordinates.
        shape: shape of the mask, along the same axes.
    """
    mask, edges = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    for points in polygons:
        box, inside, edge = fill_polygon(points, shape)
        mask[box] ^= inside
        edges[box] |= edge
    return mask | edges


def fill_polygon(
    points: Polygon, shape: tuple[int, int]
) -> tuple[tuple[slice, slice], NDArray[np.bool_], NDArray[np.bool_]]:
    """Return the bounding box of a polygon within the mask, and two masks of that box: pixels strictly inside, and
    pixels on the edge.
    """
    from skimage.measure import grid_points_in_poly

    low = np.clip(np.floor(points.min(0)).astype(int), 0, shape)
    high = np.clip(np.ceil(points.max(0)).astype(int) + 1, 0, shape)
    box = (slice(int(low[0]), int(high[0])), slice(int(low[1]), int(high[1])))
    if (high <= low).any():
        nothing = np.zeros((max(0, int(high[0] - low[0])), max(0, int(high[1] - low[1]))), dtype=bool)
        return box, nothing, nothing
    places = grid_points_in_poly(tuple(high - low), points - low, binarize=False)
    return box, places == _INSIDE, places > _INSIDE


def _signed_area(loop: Polygon) -> float:
    x, y = loop[:, 0], loop[:, 1]
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


def _inside(point: NDArray[np.float64], loop: Polygon) -> bool:
    from skimage.measure import points_in_poly

    return bool(points_in_poly(point[None], loop)[0])


def _join(outline: Polygon, hole: Polygon) -> Polygon:
    distance = ((outline[:, None] - hole[None]) ** 2).sum(-1)
    a, b = np.unravel_index(int(distance.argmin()), distance.shape)
    around = np.concatenate([hole[b:], hole[: b + 1]])
    return np.concatenate([outline[: a + 1], around, outline[a:]])
