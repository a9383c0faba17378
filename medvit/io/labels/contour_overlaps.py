"""Contours of one plane that repeat or cross each other.

Of nested contours, the inner one is a hole: the parity of the number of contours around a voxel decides. Parity fails
for crossing contours, whose common area would become a hole, and for a contour drawn twice, which would vanish. The
standard uses parity alone only for CLOSEDPLANAR_XOR (PS3.3 C.8.8.6.3).

medvit finds crossings itself, without shapely, because they are counted in the pixels that ``polygon_masks`` fills: one rule
then decides both which contours cross and which voxels they cover.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from medvit.io.polygon_masks import fill_polygon

__all__ = ["fill_union", "shared_by_crossing", "without_duplicates"]

_DRAWN_APART = 0.05
"""Smallest share of the smaller contour that must lie inside, and outside, the larger one for the two to cross;
outlines of a thin wall touch each other by rounding.
"""

_ROUND_MM = 2
"""Decimals, in mm, to which the points of repeated contours agree."""

_Drawn = TypeVar("_Drawn")


def without_duplicates(contours: Sequence[_Drawn], points: Sequence[NDArray[np.float64]]) -> list[_Drawn]:
    """Remove contours whose points (point, axis) equal those of another contour, in any order."""
    seen: dict[tuple[tuple[int, ...], bytes], _Drawn] = {}
    for contour, own in zip(contours, points, strict=True):
        rounded = np.unique(np.round(own, _ROUND_MM) + 0.0, axis=0)
        seen.setdefault((rounded.shape, rounded.tobytes()), contour)
    return list(seen.values())


def _crosses(
    shared: NDArray[np.floating] | np.floating, smaller: NDArray[np.floating] | np.floating
) -> NDArray[np.bool_]:
    """Return True where contours cross, from the number of pixels that two share and that of the smaller of the two."""
    return np.asarray((shared > 0) & (shared >= _DRAWN_APART * smaller) & (shared <= (1 - _DRAWN_APART) * smaller))


def shared_by_crossing(masks: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    """Return a mask (voxel,) of the voxels that crossing masks (contour, voxel) share; None where no two cross."""
    held = masks.astype(np.float32)
    shared, sizes = held @ held.T, held.sum(1)
    pairs = np.argwhere(np.triu(_crosses(shared, np.minimum(sizes[:, None], sizes[None])), 1))
    return np.asarray((masks[pairs[:, 0]] & masks[pairs[:, 1]]).any(0)) if len(pairs) else None


def fill_union(outlines: Sequence[NDArray[np.float64]], shape: tuple[int, int]) -> tuple[NDArray[np.bool_], bool]:
    """Fill polygons as ``fill_polygons`` does, but include the common area of crossing contours; return True as well if
    any cross.
    """
    mask, edges, crossing = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool), False
    filled = []
    for points in outlines:
        box, inside, edge = fill_polygon(points, shape)
        mask[box] ^= inside
        edges[box] |= edge
        filled.append((box, inside | edge))
    mask |= edges
    for a, b in _meeting([box for box, _ in filled]):
        box, first, second = _where_both(filled[a], filled[b])
        shared = first & second
        smaller = min(int(filled[a][1].sum()), int(filled[b][1].sum()))
        if _crosses(np.float64(shared.sum()), np.float64(smaller)):
            mask[box] |= shared
            crossing = True
    return mask, crossing


def _meeting(boxes: Sequence[tuple[slice, slice]]) -> Iterator[tuple[int, int]]:
    """Yield the pairs of boxes that share a pixel."""
    ends = np.array([[(side.start, side.stop) for side in box] for box in boxes], dtype=np.int64).reshape(-1, 2, 2)
    for a in range(len(ends) - 1):
        later = ends[a + 1 :]
        meets = (np.maximum(later[:, :, 0], ends[a, :, 0]) < np.minimum(later[:, :, 1], ends[a, :, 1])).all(1)
        for b in np.flatnonzero(meets).tolist():
            yield a, a + 1 + b


def _where_both(
    first: tuple[tuple[slice, slice], NDArray[np.bool_]], second: tuple[tuple[slice, slice], NDArray[np.bool_]]
) -> tuple[tuple[slice, slice], NDArray[np.bool_], NDArray[np.bool_]]:
    """Return the common box of two masks, and each mask cut to it."""
    starts = [max(a.start, b.start) for a, b in zip(first[0], second[0], strict=True)]
    stops = [min(a.stop, b.stop) for a, b in zip(first[0], second[0], strict=True)]

    def cut(box: tuple[slice, slice], mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        rows, columns = (slice(a - side.start, b - side.start) for side, a, b in zip(box, starts, stops, strict=True))
        return mask[rows, columns]

    rows, columns = (slice(a, b) for a, b in zip(starts, stops, strict=True))
    return (rows, columns), cut(*first), cut(*second)
