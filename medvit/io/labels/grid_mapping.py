"""Mapping of masks to another grid: voxels are copied where the grids coincide, else the nearest voxel is taken."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from medvit.errors import GeometryError
from medvit.io.geometry import Affine
from medvit.io.labels.label_set import Grid, LabelMask, LabelSet

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["GridMapping", "MaskBuilder", "clipped_labels_note", "exact_mapping", "lost_labels_note", "resample_to"]

_OFF_VOXEL = 0.05
"""Largest distance, in voxels, between voxel centres of two grids that coincide; headers round positions to some
micrometres, over some hundred voxels.
"""


@dataclass(frozen=True)
class GridMapping:
    """A mapping of the indices of one grid to another, where the voxel centres of both coincide.

    Attributes:
        axes: the target axis of each source axis.
        signs: 1, or -1 for a reversed axis.
        offset: target index of the source's first voxel.
    """

    axes: tuple[int, int, int]
    signs: tuple[int, int, int]
    offset: tuple[int, int, int]

    def move(self, start: Sequence[int], piece: NDArray[np.bool_]) -> tuple[tuple[int, int, int], NDArray[np.bool_]]:
        """Map a box of voxels at ``start`` of the source grid to the target grid; return its start and voxels there."""
        target = [0, 0, 0]
        for axis, (to, sign) in enumerate(zip(self.axes, self.signs, strict=True)):
            first = start[axis] if sign > 0 else -(start[axis] + piece.shape[axis] - 1)
            target[to] = first + self.offset[to]
        flipped = np.flip(piece, tuple(axis for axis, sign in enumerate(self.signs) if sign < 0))
        i, j, k = target
        return (i, j, k), flipped.transpose(np.argsort(self.axes))


def exact_mapping(change: Affine, shape: Sequence[int], flat: bool = False) -> GridMapping | None:
    """Find the mapping of indices behind an affine; return None where voxels of the two grids do not coincide.

    Args:
        change: (4, 4), source index to target index.
        shape: voxels along each source axis.
        flat: True where the third source axis is only a thickness, as for a single frame; its length may then differ.
    """
    linear = np.array(change[:3, :3])
    if flat:
        free = {0, 1, 2} - {int(np.abs(linear[:, n]).argmax()) for n in (0, 1)}
        if len(free) != 1:
            return None
        linear[:, 2] = np.eye(3)[free.pop()]
    axes = np.abs(linear).argmax(0)
    if len(set(axes.tolist())) < 3:
        return None
    signs = np.sign(linear[axes, range(3)]).astype(int)
    ideal = np.zeros((3, 3))
    ideal[axes, range(3)] = signs
    offset = np.rint(change[:3, 3])
    corners = np.array(list(itertools.product(*[(0, max(n - 1, 1)) for n in shape])), dtype=np.float64)
    away = corners @ (linear - ideal).T + (change[:3, 3] - offset)
    if np.abs(away).max() > _OFF_VOXEL:
        return None
    a, b, c = (int(v) for v in axes)
    s, t, u = (int(v) for v in signs)
    x, y, z = (int(v) for v in offset)
    return GridMapping((a, b, c), (s, t, u), (x, y, z))


@dataclass
class MaskBuilder:
    """A mask assembled from boxes; voxels beyond the grid are counted, not kept.

    Attributes:
        shape: (i, j, k) of the grid.
        lost: number of voxels beyond the grid.
        kept: start and voxels of each box, cut to the grid.
    """

    shape: tuple[int, int, int]
    lost: int = 0
    kept: list[tuple[NDArray[np.int64], NDArray[np.bool_]]] = field(default_factory=list)

    def add(self, start: Sequence[int], piece: NDArray[np.bool_]) -> None:
        """Add a box of voxels, (i, j, k), at ``start``."""
        if not piece.size:
            return
        low = np.maximum(start, 0)
        high = np.minimum(np.add(start, piece.shape), self.shape)
        whole = int(piece.sum())
        if (high <= low).any():
            self.lost += whole
            return
        begin = low - start
        inside = piece[tuple(slice(int(a), int(b)) for a, b in zip(begin, high - start, strict=True))]
        found = int(inside.sum())
        self.lost += whole - found
        if found:
            self.kept.append(_trim(low, inside))

    def gather(self) -> tuple[tuple[int, int, int], NDArray[np.bool_]]:
        """Return start and voxels of the smallest box around all pieces, as their union."""
        if not self.kept:
            return (0, 0, 0), np.zeros((0, 0, 0), dtype=bool)
        low = np.min([start for start, _ in self.kept], axis=0)
        high = np.max([start + piece.shape for start, piece in self.kept], axis=0)
        voxels = np.zeros(high - low, dtype=bool)
        for start, piece in self.kept:
            at = start - low
            voxels[tuple(slice(int(a), int(a) + n) for a, n in zip(at, piece.shape, strict=True))] |= piece
        i, j, k = (int(v) for v in low)
        return (i, j, k), voxels


def _trim(start: NDArray[np.int64], piece: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    bounds = []
    for axis in range(3):
        at = np.flatnonzero(piece.any(tuple(a for a in range(3) if a != axis)))
        bounds.append((int(at[0]), int(at[-1]) + 1))
    cut = piece[tuple(slice(a, b) for a, b in bounds)]
    return np.asarray(start) + np.array([a for a, _ in bounds], dtype=np.int64), np.array(cut)


def resample_to(found: LabelSet, grid: Grid) -> LabelSet:
    """Return the same labels on another grid.

    Where the two grids coincide, voxels are copied, with axes turned, mirrored and shifted as needed. Otherwise each
    voxel of the new grid takes the nearest voxel of the old, which a note states. Voxels beyond the new grid are
    flagged.

    Raises:
        GeometryError: no labelled voxel lies on the new grid.
    """
    change = np.linalg.inv(grid.affine) @ found.affine
    lattice = exact_mapping(change, found.shape)
    moved, lost = [], {}
    for segment in found.segments:
        pieces = MaskBuilder(grid.shape)
        if segment.voxels.size:
            if lattice is not None:
                pieces.add(*lattice.move(segment.start, segment.voxels))
            else:
                pieces.add(*_nearest(segment, change))
        start, voxels = pieces.gather()
        moved.append(replace(segment, start=start, voxels=voxels))
        if pieces.lost:
            lost[segment.label.name] = pieces.lost
    small = [
        before.label.name
        for before, after in zip(found.segments, moved, strict=True)
        if before.voxels.any() and not after.voxels.any() and before.label.name not in lost
    ]
    flags = [*clipped_labels_note(lost), *lost_labels_note(small)]
    if lost and not any(segment.voxels.any() for segment in moved):
        raise GeometryError(
            "no labelled voxel on the reference's grid",
            "the labels lie elsewhere in space",
            "Give the image they were drawn on with {like=...}.",
            option="like",
        )
    notes = []
    if lattice is None:
        sides = [
            " x ".join(f"{s:g}" for s in np.round(np.linalg.norm(a[:3, :3], axis=0), 4))
            for a in (found.affine, grid.affine)
        ]
        notes.append(
            f"The labels' grid ({sides[0]} mm) is not the reference's ({sides[1]} mm): each voxel took the nearest label."
        )
    return replace(found, segments=tuple(moved), grid=grid).with_notes(*notes, flags=flags)


def lost_labels_note(names: Sequence[str]) -> Sequence[str]:
    """Describe labels that fall between the voxel centres of a coarser grid."""
    return (f"Too small for the reference's grid, empty there: {', '.join(names)}.",) if names else ()


def clipped_labels_note(lost: dict[str, int]) -> Sequence[str]:
    """Describe the voxels beyond the grid, by label name."""
    if not lost:
        return ()
    named = ", ".join(f"{name} {count}" for name, count in lost.items())
    return (f"Voxels beyond the reference's grid were left out: {named}.",)


def _nearest(segment: LabelMask, change: Affine) -> tuple[list[int], NDArray[np.bool_]]:
    """Sample a segment at the voxel centres of another grid; return start and voxels, (i, j, k), on that grid."""
    from scipy.ndimage import affine_transform

    size = np.array(segment.voxels.shape)
    corners = np.array(
        list(itertools.product(*[(a - 0.5, a + n - 0.5) for a, n in zip(segment.start, size, strict=True)]))
    )
    reached = corners @ change[:3, :3].T + change[:3, 3]
    low = np.floor(reached.min(0)).astype(int)
    high = np.ceil(reached.max(0)).astype(int) + 1
    back = np.linalg.inv(change)
    # one voxel of margin, so that the outer half of the outermost voxels counts too
    padded = np.pad(segment.voxels, 1).astype(np.uint8)
    origin = back[:3, :3] @ low + back[:3, 3] - segment.start + 1
    sampled = affine_transform(padded, back[:3, :3], origin, tuple(high - low), order=0, mode="constant", cval=0)
    return [int(v) for v in low], sampled.astype(bool)
