"""How a volume lies in napari: its own voxels, turned and mirrored onto axes that run to the feet, the back and the left.

napari draws its last axis to the right and the one before downwards. World axes of inferior, posterior and left therefore
give the three views as they are read: head or front up, the patient's left on the right. No voxel is interpolated where a volume
is shown along its own axes, turned about its middle; the exact way back to the patient is kept. Volumes of one window
share a display frame: those whose axes agree with it are shown as they are, the others interpolated.
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
"""Where napari's axes run, in the patient."""

_AGREES = 0.5
"""Voxels (of the smallest side) by which a corner may lie beside its true place where axes count as the same."""

_OBLIQUE_DEG = 0.5
"""Degrees from which a volume counts as oblique."""


@dataclass(frozen=True, eq=False)
class _Box:
    """An even grid along a frame's axes around a volume: voxels, millimetres and first voxel along napari's axes."""

    shape: tuple[int, int, int]
    scale: tuple[float, float, float]
    translate: tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Canonical:
    """Where a stored volume lies in napari.

    Attributes:
        shape: of the stored volume, (i, j, k).
        affine: voxel index to RAS+ mm, 4x4.
        frame: display axes that other volumes share; None for the volume's own.

    Raises:
        GeometryError: a geometry on which no measurement could be trusted.
    """

    shape: tuple[int, int, int]
    affine: Affine
    frame: Frame | None = None

    def __post_init__(self) -> None:
        check_affine(self.affine)

    @cached_property
    def order(self) -> tuple[int, int, int]:
        """The stored axis behind each of napari's."""
        first, second, third = (int(np.flatnonzero(self._turns[:, 0] == axis)[0]) for axis in (2, 1, 0))
        return first, second, third

    @cached_property
    def flips(self) -> tuple[int, ...]:
        """The axes of napari's that run against the stored ones."""
        return tuple(n for n, axis in enumerate(self.order) if self._turns[axis, 1] > 0)

    @cached_property
    def _turns(self) -> NDArray[np.float64]:
        import nibabel as nib

        found: NDArray[np.float64] = nib.orientations.io_orientation(self.affine)
        return found

    @cached_property
    def scale(self) -> tuple[float, float, float]:
        """Millimetres along napari's axes."""
        sides = spacing_mm(self.affine)
        a, b, c = (sides[axis] for axis in self.order)
        return a, b, c

    @cached_property
    def own_frame(self) -> Frame:
        """The volume's own axes, turned about its middle."""
        columns = self.affine[:3, list(self.order)] / np.array(self.scale)
        signs = [-1.0 if axis in self.flips else 1.0 for axis in range(3)]
        u, _, v = np.linalg.svd((columns * signs).T)  # headers round: the nearest axes at right angles
        return Frame(u @ v, self._middle)

    @cached_property
    def _middle(self) -> NDArray[np.float64]:
        """The volume's middle, RAS+ mm."""
        middle: NDArray[np.float64] = world(self.affine, (np.array([self.shape], float) - 1) / 2)[0]
        return middle

    @property
    def shown_frame(self) -> Frame:
        """The display axes in use."""
        return self.frame or self.own_frame

    @cached_property
    def _corners(self) -> NDArray[np.float64]:
        """The middles of the eight corner voxels, RAS+ mm."""
        index = np.array(np.meshgrid(*[(0.0, n - 1.0) for n in self.shape], indexing="ij")).reshape(3, -1).T
        corners: NDArray[np.float64] = world(self.affine, index)
        return corners

    def apart_mm(self, frame: Frame) -> float:
        """Measure how far a corner would lie beside its place if the volume's own axes stood for a frame's."""
        straight = self.own_frame.shown(self._corners) - self.own_frame.shown(self._middle)
        true = frame.shown(self._corners) - frame.shown(self._middle)
        return float(np.linalg.norm(straight - true, axis=1).max())

    def agrees(self, frame: Frame) -> bool:
        """Tell whether the volume can be shown along a frame's axes without interpolation."""
        return self.apart_mm(frame) <= _AGREES * min(self.scale)

    @cached_property
    def is_direct(self) -> bool:
        """True where the volume is shown voxel by voxel; False where it is interpolated along the frame's axes."""
        return self.frame is None or self.agrees(self.frame)

    @cached_property
    def translate(self) -> tuple[float, float, float]:
        """Where the first shown voxel lies, so that the volume's middle is where it is in the patient."""
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
        """Return what napari draws: the volume itself, or where its axes are not the frame's, interpolated along those.

        Args:
            shown: the volume along its own axes, as ``show`` gives it.
            order: 1 for images, 0 for labels.
            outside: value beyond the volume.
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
        """Voxels along napari's axes."""
        a, b, c = (self.shape[axis] for axis in self.order)
        return a, b, c

    @cached_property
    def oblique_deg(self) -> float:
        """The largest angle between an axis of the volume and the patient's: what straightening leaves out of the picture."""
        axes = self.affine[:3, :3] / np.array(spacing_mm(self.affine))
        return float(np.degrees(np.arccos(np.clip(np.abs(axes).max(0), 0, 1))).max())

    def show(self, array: NDArray[Any]) -> NDArray[Any]:
        """A stored (i, j, k) array as napari shows it: a view, nothing is copied."""
        return np.flip(array.transpose(self.order), self.flips) if self.flips else array.transpose(self.order)

    def back(self, shown: NDArray[Any]) -> NDArray[Any]:
        """What napari shows as it is stored, (i, j, k): the exact inverse of ``show``."""
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
        """napari's world coordinates (n, 3) as voxel indices of the stored volume, (n, 3)."""
        index: NDArray[np.float64] = world(
            np.linalg.inv(self.affine).astype(np.float64), self.shown_frame.patient(shown_world)
        )
        return index

    @property
    def orientation(self) -> str:
        """Three letters: where the stored axes i, j, k run in the patient, of R, L, A, P, S, I."""
        return axis_codes(self.affine)

    @property
    def remarks(self) -> tuple[str, ...]:
        """Remarks for the reader on how the volume is shown."""
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
        """What a layer is told of its place."""
        return {
            "scale": self.scale if self.is_direct else self._box.scale,
            "translate": self.translate if self.is_direct else self._box.translate,
            "units": ("mm", "mm", "mm"),
            "axis_labels": AXIS_LABELS,
        }
