"""Sizes of labelled bones in millimetres: where they are, how they lie, how wide and high."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medvit.errors import ShapeError
from medvit.io import Affine, check_affine, world

__all__ = ["BoneMeasures", "measure_bones"]


@dataclass(frozen=True)
class BoneMeasures:
    """One labelled bone. Positions and directions are RAS+ mm.

    Attributes:
        id: value in the label map.
        voxels: how many.
        volume_ml: volume.
        centroid_mm: its middle, (3,).
        axes: directions of its longest to its shortest spread, (axis, 3), unit vectors, right-handed; each of the first two
            points to the side where its largest component is positive. Of bodies as wide as high they are arbitrary.
        extents_mm: full size along these axes, (3,), voxels counted whole.
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
        """How far the longest axis leans from the vertical: seen from the front, to the patient's right where positive, and
        from the side, to the front where positive; -90 to 90 degrees."""
        x, y, z = (float(v) for v in self.axes[0] * (1 if self.axes[0][2] >= 0 else -1))
        return float(np.degrees(np.arctan2(x, z))), float(np.degrees(np.arctan2(y, z)))


def measure_bones(labels: np.ndarray, affine: Affine, ids: Sequence[int] | None = None) -> list[BoneMeasures]:
    """Measure the labelled bones of a volume.

    Args:
        labels: (i, j, k), whole numbers, 0 background.
        affine: voxel index to RAS+ mm, 4x4.
        ids: which; None measures all that occur. Those that do not occur are left out of the answer.

    Returns:
        One entry a bone found, by id.

    Raises:
        ShapeError: not three axes, or not whole numbers. GeometryError: an irregular affine.
    """
    labels = np.asarray(labels)
    if labels.ndim != 3 or not np.issubdtype(labels.dtype, np.integer):
        raise ShapeError(
            f"Found labels of shape {labels.shape} and {labels.dtype}; whole numbers (i, j, k) are needed. Pass one label map."
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
    # the spread within a voxel counts too, so that a slice one voxel thick has a thickness
    spread = (place - centroid).T @ (place - centroid) / len(place) + voxel @ voxel.T / 12
    axes = np.linalg.eigh(spread)[1].T[::-1].copy()
    for axis in axes[:2]:
        axis *= np.sign(axis[np.abs(axis).argmax()])
    axes[2] = np.cross(axes[0], axes[1])
    extents, size = (_extent(place, directions, voxel) for directions in (axes, np.eye(3)))
    volume = len(index) * abs(float(np.linalg.det(voxel))) / 1000
    x, y, z = (float(v) for v in centroid)
    return BoneMeasures(bone, len(index), volume, (x, y, z), axes, extents, size)


def _extent(place: np.ndarray, directions: np.ndarray, voxel: np.ndarray) -> tuple[float, float, float]:
    """Full size along directions: between the outermost voxels' middles, plus what a voxel measures along each."""
    along = place @ directions.T
    # half a voxel at both ends; of a voxel askew, its mean width rather than its corners
    whole = np.sqrt(((directions @ voxel) ** 2).sum(1))
    a, b, c = (float(v) for v in np.ptp(along, axis=0) + whole)
    return a, b, c
