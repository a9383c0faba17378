"""Labels on the slices of a tilted or uneven stack, and their resampling to the regular grid around it.

Labels drawn on the slices are kept unchanged: DICOM objects written from them match the slices voxel for voxel. On the
regular grid, a voxel has a label where more than half of the surrounding slices' interpolated weight has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from medvit.io.dicom import labels_to_slices, resample_to_grid
from medvit.io.geometry import flip_lps_ras
from medvit.io.labels.grid_mapping import GridMapping, exact_mapping
from medvit.io.labels.label_set import Box, Grid, LabelMask, LabelSet
from medvit.io.labels.rasterize import Contour
from medvit.io.labels.seg_frames import Frame
from medvit.io.scan import Scan, SourceStack

_MOST = 0.5
"""Share of the interpolated weight above which a voxel has a label; at exactly half, two labels could claim the same
voxel.
"""

__all__ = ["contours_on_slices", "frames_on_slices", "onto_grid", "slice_index_grid", "slice_masks"]

_ON_SLICE_MM = 0.1
"""Largest distance of contours and frames from their slice, in mm; headers and planning systems round to 0.01 mm."""


def slice_index_grid(original: SourceStack) -> Grid:
    """Return the slices (column, row, slice) as a grid in index coordinates, with one "millimetre" for each index."""
    columns, rows, count = original.values.shape
    return Grid((columns, rows, count), np.eye(4))


def _slice_of(original: SourceStack, points: NDArray[np.float64]) -> int | None:
    """Return the slice that contains the points (point, axis) in LPS millimetres, or None."""
    planes = original.planes
    normals = np.cross(planes[:, :3, 0], planes[:, :3, 1])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    away = np.abs(np.einsum("nka,na->nk", points[None] - planes[:, None, :3, 3], normals)).max(1)
    return int(away.argmin()) if away.min() <= _ON_SLICE_MM else None


def frames_on_slices(frames: Sequence[Frame], original: SourceStack) -> list[GridMapping] | None:
    """Map each frame of a SEG to ``slice_index_grid``; return None where a frame is not a slice of the stack."""
    placed = []
    for frame in frames:
        k = _slice_of(original, frame.affine[None, :3, 3])
        if k is None:
            return None
        lattice = exact_mapping(np.linalg.inv(original.planes[k]) @ frame.affine, frame.shape, flat=True)
        if lattice is None or lattice.axes[2] != 2 or lattice.offset[2] != 0:
            return None
        placed.append(replace(lattice, offset=(*lattice.offset[:2], k)))
    return placed


def contours_on_slices(contours: Sequence[Contour], original: SourceStack) -> list[Contour] | None:
    """Convert contours to ``slice_index_grid``; return None where a contour does not lie on a slice of the stack."""
    flip = flip_lps_ras(np.eye(4))[:3, :3]
    moved = []
    for contour in contours:
        points = contour.points @ flip
        k = _slice_of(original, points)
        if k is None:
            return None
        inverse = np.linalg.inv(original.planes[k])
        index = points @ inverse[:3, :3].T + inverse[:3, 3]
        index[:, 2] = k
        moved.append(Contour(index, contour.parity))
    return moved


def onto_grid(found: LabelSet, scan: Scan) -> LabelSet:
    """Resample labels in ``slice_index_grid`` to the regular grid of a resampled stack; keep their masks on the slices
    too.
    """
    original = scan.original
    assert original is not None
    segments = []
    for segment in found.segments:
        held = resample_to_grid(found.whole(segment).astype(np.float32), original.grid)
        segments.append(replace(segment, **_cut(np.nan_to_num(held) > _MOST)))
    drawn = tuple((segment.start, segment.voxels) for segment in found.segments)
    return replace(found, segments=tuple(segments), grid=Grid.of(scan), masks_on_slices=drawn, reference=scan)


def _cut(mask: NDArray[np.bool_]) -> Box:
    """Cut a mask to its bounding box, as a ``LabelMask`` stores it."""
    places = [np.flatnonzero(mask.any(tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    if not len(places[0]):
        return {"start": (0, 0, 0), "voxels": np.zeros((0, 0, 0), dtype=bool)}
    i, j, k = (int(at[0]) for at in places)
    box = tuple(slice(int(at[0]), int(at[-1]) + 1) for at in places)
    return {"start": (i, j, k), "voxels": np.array(mask[box])}


def slice_masks(found: LabelSet) -> list[tuple[LabelMask, NDArray[np.bool_]]]:
    """Return each segment with its mask on the DICOM slices of the reference, (column, row, slice); empty segments are
    left out.

    For a regular stack this is the mask on the grid. For other stacks, labels drawn on the slices are returned as
    drawn, and labels from elsewhere are mapped back from the regular grid.
    """
    original = found.reference.original if found.reference is not None else None
    if original is None:
        return [(segment, found.whole(segment)) for segment in found.present()]
    space = slice_index_grid(original)
    if found.masks_on_slices:
        on_slices = replace(
            found,
            grid=space,
            segments=tuple(
                replace(segment, start=start, voxels=voxels)
                for segment, (start, voxels) in zip(found.segments, found.masks_on_slices, strict=True)
            ),
        )
        return [
            (before, on_slices.whole(after))
            for before, after in zip(found.segments, on_slices.segments, strict=True)
            if after.voxels.any()
        ]
    size = (space.shape[0], space.shape[1])
    if found.overlaps:
        masks = [labels_to_slices(found.whole(s).astype(np.uint8), original.grid, size) > 0 for s in found.segments]
    else:
        array = labels_to_slices(found.array, original.grid, size)
        masks = [array == segment.label.id for segment in found.segments]
    return [(segment, mask) for segment, mask in zip(found.segments, masks, strict=True) if mask.any()]
