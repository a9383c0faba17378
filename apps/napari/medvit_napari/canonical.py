"""How a volume lies in napari: its own voxels, turned and mirrored onto axes that run to the feet, the back and the left.

napari draws its last axis to the right and the one before downwards. World axes of inferior, posterior and left therefore
give the three views as they are read: head or front up, the patient's left on the right. No voxel is interpolated: an
oblique volume is shown along its own axes, turned about its middle, and the exact way back to the patient is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvit.io.geometry import Affine, check_affine, spacing_mm, world

__all__ = ["AXIS_LABELS", "Canonical"]

AXIS_LABELS = ("inferior", "posterior", "left")
"""Where napari's axes run, in the patient."""

_WORLD = np.array([[0.0, 0.0, -1.0], [0.0, -1.0, 0.0], [-1.0, 0.0, 0.0]])
"""RAS+ mm to (inferior, posterior, left) mm."""


@dataclass(frozen=True, eq=False)
class Canonical:
    """Where a stored volume lies in napari.

    Attributes:
        shape: of the stored volume, (i, j, k).
        affine: voxel index to RAS+ mm, 4x4.

    Raises:
        GeometryError: a geometry on which no measurement could be trusted.
    """

    shape: tuple[int, int, int]
    affine: Affine

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
    def translate(self) -> tuple[float, float, float]:
        """Where the first shown voxel lies, so that the volume's middle is where it is in the patient."""
        middle = world(self.affine, (np.array([self.shape], float) - 1) / 2)[0] @ _WORLD.T
        size = np.array([self.shape[axis] for axis in self.order])
        a, b, c = (float(v) for v in middle - np.array(self.scale) * (size - 1) / 2)
        return a, b, c

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

    def shown_world(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Points (n, 3) in RAS+ mm as napari's world coordinates, (n, 3), straightened as the picture is."""
        index = world(np.linalg.inv(self.affine).astype(np.float64), points)[:, self.order]
        last = np.array(self.shown_shape) - 1
        for axis in self.flips:
            index[:, axis] = last[axis] - index[:, axis]
        moved: NDArray[np.float64] = index * np.array(self.scale) + np.array(self.translate)
        return moved

    def stored_index(self, shown_world: NDArray[np.float64]) -> NDArray[np.float64]:
        """napari's world coordinates (n, 3) as voxel indices of the stored volume, (n, 3)."""
        index = (np.atleast_2d(shown_world) - np.array(self.translate)) / np.array(self.scale)
        last = np.array(self.shown_shape) - 1
        for axis in self.flips:
            index[:, axis] = last[axis] - index[:, axis]
        moved: NDArray[np.float64] = index[:, np.argsort(self.order)]
        return moved

    def placement(self) -> dict[str, Any]:
        """What a layer is told of its place."""
        return {
            "scale": self.scale,
            "translate": self.translate,
            "units": ("mm", "mm", "mm"),
            "axis_labels": AXIS_LABELS,
        }
