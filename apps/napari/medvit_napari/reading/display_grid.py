"""Display grid: the placement of a stored volume in napari, on axes that point to inferior, posterior and left.

napari draws its last axis to the right and the one before it downwards. World axes of inferior, posterior and left
therefore give the three usual views: head or front up, the patient's left on the right. A volume shown along its own
axes is not interpolated, only rotated about its middle, and the exact transform back to the patient is kept. Volumes in
one window share a display frame: those whose axes agree with the frame are shown as stored, the others interpolated.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvit.io import Affine, axis_codes, check_affine, spacing_mm, world
from medvit_napari.reading.display_frame import Frame, Interpolated

__all__ = ["AXIS_LABELS", "Canonical"]

AXIS_LABELS = ("inferior", "posterior", "left")
"""Directions of napari's axes in the patient."""

_AGREES = 0.5
"""Largest misplacement of a corner, in voxels of the shortest side, at which two sets of axes count as the same."""

_OBLIQUE_DEG = 0.5
"""Angle in degrees from which a volume counts as oblique."""


@dataclass(frozen=True, eq=False)
class _Box:
    """Regular grid along a frame's axes around a volume: shape, voxel size in mm and position of the first voxel, along
    napari's axes.
    """

    shape: tuple[int, int, int]
    scale: tuple[float, float, float]
    translate: tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Canonical:
    """Placement of a stored volume in napari.

    Attributes:
        shape: shape of the stored volume, (i, j, k).
        affine: 4x4 matrix from voxel index to RAS+ mm.
        frame: display axes shared with other volumes; None for the volume's own axes.

    Raises:
        GeometryError: the affine is not valid for measurements.
    """

    shape: tuple[int, int, int]
    affine: Affine
    frame: Frame | None = None

    def __post_init__(self) -> None:
        check_affine(self.affine)

    @cached_property
    def order(self) -> tuple[int, int, int]:
        """Stored axis for each of napari's axes."""
        first, second, third = (int(np.flatnonzero(self._turns[:, 0] == axis)[0]) for axis in (2, 1, 0))
        return first, second, third

    @cached_property
    def flips(self) -> tuple[int, ...]:
        """Axes of napari that are reversed relative to the stored axes."""
        return tuple(n for n, axis in enumerate(self.order) if self._turns[axis, 1] > 0)

    @cached_property
    def _turns(self) -> NDArray[np.float64]:
        import nibabel as nib

        found: NDArray[np.float64] = nib.orientations.io_orientation(self.affine)
        return found

    @cached_property
    def scale(self) -> tuple[float, float, float]:
        """Voxel size in mm along napari's axes."""
        sides = spacing_mm(self.affine)
        a, b, c = (sides[axis] for axis in self.order)
        return a, b, c

    @cached_property
    def own_frame(self) -> Frame:
        """Frame of the volume's own axes, centred on its middle."""
        columns = self.affine[:3, list(self.order)] / np.array(self.scale)
        signs = [-1.0 if axis in self.flips else 1.0 for axis in range(3)]
        u, _, v = np.linalg.svd(
            (columns * signs).T
        )  # header values are rounded, so the nearest orthogonal axes are used
        return Frame(u @ v, self._middle)

    @cached_property
    def _middle(self) -> NDArray[np.float64]:
        """Middle of the volume, RAS+ mm."""
        middle: NDArray[np.float64] = world(self.affine, (np.array([self.shape], float) - 1) / 2)[0]
        return middle

    @property
    def shown_frame(self) -> Frame:
        """Display axes in use."""
        return self.frame or self.own_frame

    @cached_property
    def _corners(self) -> NDArray[np.float64]:
        """Centres of the eight corner voxels, RAS+ mm."""
        index = np.array(np.meshgrid(*[(0.0, n - 1.0) for n in self.shape], indexing="ij")).reshape(3, -1).T
        corners: NDArray[np.float64] = world(self.affine, index)
        return corners

    def apart_mm(self, frame: Frame) -> float:
        """Return the largest misplacement of a corner, in mm, if the volume's own axes were used as those of a frame."""
        straight = self.own_frame.shown(self._corners) - self.own_frame.shown(self._middle)
        true = frame.shown(self._corners) - frame.shown(self._middle)
        return float(np.linalg.norm(straight - true, axis=1).max())

    def agrees(self, frame: Frame) -> bool:
        """Return True if the volume can be shown along a frame's axes without interpolation."""
        return self.apart_mm(frame) <= _AGREES * min(self.scale)

    @cached_property
    def is_direct(self) -> bool:
        """True if the volume is shown voxel by voxel; False if it is interpolated along the frame's axes."""
        return self.frame is None or self.agrees(self.frame)

    @cached_property
    def translate(self) -> tuple[float, float, float]:
        """Position of the first shown voxel; it puts the volume's middle at its position in the patient."""
        middle = self.shown_frame.shown(self._middle)[0]
        size = np.array([self.shape[axis] for axis in self.order])
        a, b, c = (float(v) for v in middle - np.array(self.scale) * (size - 1) / 2)
        return a, b, c

    @cached_property
    def _box(self) -> _Box:
        frame = self.shown_frame
        corners = frame.shown(self._corners)
        low, high = corners.min(0), corners.max(0)
        sides = np.array(spacing_mm(self.affine))
        along = 1 / (np.abs(frame.axes @ (self.affine[:3, :3] / sides)) / sides).max(1)
        count = np.ceil((high - low) / along - 1e-6).astype(int) + 1
        a, b, c = (int(n) for n in count)
        (x, y, z), (p, q, r) = ((float(v) for v in values) for values in (along, low))
        return _Box((a, b, c), (x, y, z), (p, q, r))

    def displayed(self, shown: Any, order: int, outside: float = 0.0) -> Any:
        """Return the array that napari draws: the volume itself or, if its axes differ from the frame's, the
        interpolated one.

        Args:
            shown: the volume along its own axes; see ``show``.
            order: 1 for images, 0 for labels.
            outside: value outside the volume.
        """
        if self.is_direct:
            return shown
        box = self._box
        index = np.vstack([np.zeros(3), np.eye(3)])
        source = self._to_shown(
            world(
                np.linalg.inv(self.affine).astype(np.float64),
                self.shown_frame.patient(index * box.scale + box.translate),
            )
        )
        to_source = np.eye(4)
        to_source[:3, :3], to_source[:3, 3] = (source[1:] - source[0]).T, source[0]
        return Interpolated(shown, to_source, box.shape, order, outside)

    @property
    def shown_shape(self) -> tuple[int, int, int]:
        """Shape along napari's axes."""
        a, b, c = (self.shape[axis] for axis in self.order)
        return a, b, c

    @cached_property
    def oblique_deg(self) -> float:
        """Largest angle between an axis of the volume and of the patient, which is not visible in the display."""
        axes = self.affine[:3, :3] / np.array(spacing_mm(self.affine))
        return float(np.degrees(np.arccos(np.clip(np.abs(axes).max(0), 0, 1))).max())

    def show(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return a view of a stored (i, j, k) array along napari's axes; no voxel is copied."""
        return np.flip(array.transpose(self.order), self.flips) if self.flips else array.transpose(self.order)

    def back(self, shown: NDArray[Any]) -> NDArray[Any]:
        """Return a view of a shown array along the stored axes (i, j, k); the exact inverse of ``show``."""
        straight = np.flip(shown, self.flips) if self.flips else shown
        return straight.transpose(np.argsort(self.order))

    def _to_shown(self, stored: NDArray[np.float64]) -> NDArray[np.float64]:
        """Convert indices (n, 3) of the stored volume to indices along napari's axes."""
        index = stored[:, self.order]
        last = np.array(self.shown_shape) - 1
        for axis in self.flips:
            index[:, axis] = last[axis] - index[:, axis]
        return index

    def shown_world(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Convert points (n, 3) in RAS+ mm to napari's world coordinates, (n, 3)."""
        return self.shown_frame.shown(points)

    def stored_index(self, shown_world: NDArray[np.float64]) -> NDArray[np.float64]:
        """Convert napari's world coordinates (n, 3) to voxel indices of the stored volume, (n, 3)."""
        index: NDArray[np.float64] = world(
            np.linalg.inv(self.affine).astype(np.float64), self.shown_frame.patient(shown_world)
        )
        return index

    @property
    def orientation(self) -> str:
        """Directions of the stored axes i, j, k in the patient: three letters of R, L, A, P, S, I."""
        return axis_codes(self.affine)

    @property
    def remarks(self) -> tuple[str, ...]:
        """Notes for the user on the display of the volume."""
        if not self.is_direct:
            apart = self.apart_mm(self.shown_frame)
            return (
                "Shown interpolated along the axes of another open volume, so that both overlay in the patient; "
                f"along its own axes a corner would be {apart:.1f} mm off.",
            )
        if self.oblique_deg < _OBLIQUE_DEG:
            return ()
        return (f"Shown along its own axes, which lie up to {self.oblique_deg:.1f} degrees away from the patient's.",)

    def placement(self) -> dict[str, Any]:
        """Return the options that place a layer: scale, translate, units and axis labels."""
        return {
            "scale": self.scale if self.is_direct else self._box.scale,
            "translate": self.translate if self.is_direct else self._box.translate,
            "units": ("mm", "mm", "mm"),
            "axis_labels": AXIS_LABELS,
        }
