"""Sizes of labelled bones in millimetres: position, orientation, extent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medvit.errors import ShapeError
from medvit.io import Affine, check_affine, world

__all__ = ["BoneMeasures", "measure_bones"]


@dataclass(frozen=True, kw_only=True)
class BoneMeasures:
    """Measures of one labelled bone. Positions and directions are RAS+ mm.

    Attributes:
        id: value in the label map.
        voxels: number of voxels.
        volume_ml: volume.
        centroid_mm: centroid, (3,).
        axes: (axis, 3), unit vectors, right-handed, from the direction of the longest to that of the shortest spread;
            each of the first two points to the side where its largest component is positive. For bodies as wide as high
            they are arbitrary.
        extents_mm: full size along these axes, (3,), including whole voxels.
        size_mm: full size along right, anterior and superior, (3,): width, depth and height of the upright patient.
    """

    id: int
    voxels: int
    volume_ml: float
    centroid_mm: tuple[float, float, float]
    axes: np.ndarray
    extents_mm: tuple[float, float, float]
    size_mm: tuple[float, float, float]

    @property
    def tilt_deg(self) -> tuple[float, float]:
        """Angles of the longest axis from the vertical, -90 to 90 degrees: seen from the front, positive to the
        patient's right; and seen from the side, positive to the front.
        """
        x, y, z = (float(v) for v in self.axes[0] * (1 if self.axes[0][2] >= 0 else -1))
        return float(np.degrees(np.arctan2(x, z))), float(np.degrees(np.arctan2(y, z)))


def measure_bones(labels: np.ndarray, affine: Affine, ids: Sequence[int] | None = None) -> list[BoneMeasures]:
    """Measure the labelled bones of a volume.

    Args:
        labels: (i, j, k), integer ids, 0 background.
        affine: (4, 4), voxel index to RAS+ mm.
        ids: ids to measure; None measures all that occur. Absent ids are left out of the result.

    Returns:
        Measures of each bone found, by ascending id.

    Raises:
        ShapeError: the labels do not have three axes, or are not integer.
        GeometryError: the affine is not usable.
    """
    labels = np.asarray(labels)
    if labels.ndim != 3 or not np.issubdtype(labels.dtype, np.integer):
        raise ShapeError(
            f"labels of shape {labels.shape} and {labels.dtype}",
            "whole numbers (i, j, k) are needed",
            "Pass one label map.",
        )
    affine = np.asarray(affine, dtype=np.float64)
    check_affine(affine)
    wanted = sorted({int(i) for i in (np.unique(labels) if ids is None else ids)} - {0})
    found = ((i, np.argwhere(labels == i)) for i in wanted)
    return [_measure(i, index, affine) for i, index in found if len(index)]


def _measure(bone: int, index: np.ndarray, affine: np.ndarray) -> BoneMeasures:
    place = world(affine, index.astype(np.float64))
    centroid = place.mean(0)
    voxel = affine[:3, :3]
    # includes the spread within a voxel, so that a slice one voxel thick has a thickness
    spread = (place - centroid).T @ (place - centroid) / len(place) + voxel @ voxel.T / 12
    axes = np.linalg.eigh(spread)[1].T[::-1].copy()
    for axis in axes[:2]:
        axis *= np.sign(axis[np.abs(axis).argmax()])
    axes[2] = np.cross(axes[0], axes[1])
    extents, size = (_extent(place, directions, voxel) for directions in (axes, np.eye(3)))
    volume = len(index) * abs(float(np.linalg.det(voxel))) / 1000
    x, y, z = (float(v) for v in centroid)
    return BoneMeasures(
        id=bone, voxels=len(index), volume_ml=volume, centroid_mm=(x, y, z), axes=axes, extents_mm=extents, size_mm=size
    )


def _extent(place: np.ndarray, directions: np.ndarray, voxel: np.ndarray) -> tuple[float, float, float]:
    """Compute the full size along directions: between the outermost voxel centres, plus the size of a voxel along each
    direction.
    """
    along = place @ directions.T
    # half a voxel at both ends; for an oblique direction, the voxel's mean width rather than its corners
    whole = np.sqrt(((directions @ voxel) ** 2).sum(1))
    a, b, c = (float(v) for v in np.ptp(along, axis=0) + whole)
    return a, b, c
