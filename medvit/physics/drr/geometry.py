"""Positions of source, patient and detector, in millimetres and degrees."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medvit.errors import GeometryError
from medvit.io import Affine, check_affine, spacing_mm, world

__all__ = ["Geometry", "volume_centre_mm"]


def volume_centre_mm(affine: Affine, shape: Sequence[int]) -> tuple[float, float, float]:
    """Return the centre of a volume's extent, RAS+ mm."""
    x, y, z = world(np.asarray(affine, dtype=np.float64), np.array([[(n - 1) / 2 for n in shape]]))[0]
    return float(x), float(y), float(z)


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Geometry of a cone beam that rotates about the patient's long axis.

    At 0 degrees the source is in front of the patient and the detector behind (an AP radiograph). At 90 degrees the
    source is on the patient's left; it moves from front to left. Rows run from head to feet. At 0 degrees the columns
    run from the patient's right to left, at 90 degrees from front to back, as seen from the source.

    Attributes:
        source_to_isocenter_mm: distance from the focal spot to the axis of rotation.
        isocenter_to_detector_mm: distance from the axis of rotation to the detector plane.
        detector_shape: rows, columns.
        pixel_spacing_mm: distances between rows and between columns on the detector.
        views_deg: rotation of each view.
        isocenter_mm: RAS+; None for the centre of the volume.
        detector_offset_mm: offset of the detector's centre from the central ray, along rows and columns.

    Raises:
        GeometryError: a length is not positive and finite, there is no view, or the detector is empty.
    """

    source_to_isocenter_mm: float
    isocenter_to_detector_mm: float
    detector_shape: tuple[int, int]
    pixel_spacing_mm: tuple[float, float]
    views_deg: tuple[float, ...] = (0.0, 90.0)
    isocenter_mm: tuple[float, float, float] | None = None
    detector_offset_mm: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        lengths = {
            "source_to_isocenter_mm": self.source_to_isocenter_mm,
            "isocenter_to_detector_mm": self.isocenter_to_detector_mm,
            "pixel_spacing_mm (rows)": self.pixel_spacing_mm[0],
            "pixel_spacing_mm (columns)": self.pixel_spacing_mm[1],
        }
        for name, value in lengths.items():
            if not (math.isfinite(value) and value > 0):
                raise GeometryError(
                    f"{name} = {value:g}", "it must be a positive length in millimetres", "Correct the geometry."
                )
        if min(self.detector_shape) < 1:
            raise GeometryError(
                f"a detector of {self.detector_shape} pixels", "it needs at least one row and one column", "Correct it."
            )
        if not self.views_deg or not all(math.isfinite(v) for v in self.views_deg):
            raise GeometryError(f"views {self.views_deg}", "give at least one finite angle in degrees, such as 0")

    @property
    def magnification(self) -> float:
        """Magnification of an object at the isocenter on the detector."""
        return (self.source_to_isocenter_mm + self.isocenter_to_detector_mm) / self.source_to_isocenter_mm

    def axes(self, view_deg: float) -> np.ndarray:
        """Return unit vectors, RAS+, as the rows of a (3, 3) array: towards the source, along columns, along rows."""
        angle = math.radians(view_deg)
        c, s = math.cos(angle), math.sin(angle)
        return np.array([[-s, c, 0.0], [-c, -s, 0.0], [0.0, 0.0, -1.0]])

    def source_mm(self, view_deg: float, isocenter_mm: Sequence[float]) -> np.ndarray:
        """Return the position of the focal spot, RAS+ mm, (3,)."""
        found: np.ndarray = np.asarray(isocenter_mm) + self.source_to_isocenter_mm * self.axes(view_deg)[0]
        return found

    def detector_affine(self, view_deg: float, isocenter_mm: Sequence[float]) -> Affine:
        """Return the affine from (column, row, 0) of a view to RAS+ mm; the third axis points to the source."""
        towards, across, down = self.axes(view_deg)
        affine = np.eye(4)
        affine[:3, 0] = across * self.pixel_spacing_mm[1]
        affine[:3, 1] = down * self.pixel_spacing_mm[0]
        affine[:3, 2] = towards
        middle = np.asarray(isocenter_mm) - self.isocenter_to_detector_mm * towards
        middle = middle + down * self.detector_offset_mm[0] + across * self.detector_offset_mm[1]
        rows, columns = self.detector_shape
        affine[:3, 3] = middle - affine[:3, 0] * (columns - 1) / 2 - affine[:3, 1] * (rows - 1) / 2
        return affine

    def covering(self, affine: Affine, shape: Sequence[int]) -> tuple[int, int]:
        """Return the numbers of rows and columns with which the detector covers the projection of a whole volume in
        every view.

        Raises:
            GeometryError: the volume extends to the source.
        """
        affine = np.asarray(affine, dtype=np.float64)
        isocenter = self.isocenter_mm or volume_centre_mm(affine, shape)
        corners = np.array(list(itertools.product((0, 1), repeat=3))) * np.array(shape) - 0.5
        offset = world(affine, corners) - np.array(isocenter)
        total = self.source_to_isocenter_mm + self.isocenter_to_detector_mm
        reach = np.zeros(2)
        for view in self.views_deg:
            towards, across, down = (offset @ axis for axis in self.axes(view))
            if float(towards.max()) >= self.source_to_isocenter_mm:
                raise GeometryError(
                    (
                        f"a volume that reaches {float(towards.max()):.0f} mm towards a source at "
                        f"{self.source_to_isocenter_mm:g} mm"
                    ),
                    "the source must lie outside the volume",
                    "Increase source_to_isocenter_mm.",
                )
            larger = total / (self.source_to_isocenter_mm - towards)
            reach = np.maximum(reach, [np.abs(down * larger).max(), np.abs(across * larger).max()])
        rows, columns = (max(1, math.ceil(2 * r / p)) for r, p in zip(reach, self.pixel_spacing_mm, strict=True))
        return rows, columns

    def rays(self, affine: Affine, shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Return the focal spots (view, 3) and pixel centres (view, row, column, 3), both RAS+ mm float64.

        Raises:
            GeometryError: the affine is not regular, or a source is inside the volume.
        """
        check_affine(affine)
        isocenter = self.isocenter_mm or volume_centre_mm(affine, shape)
        rows, columns = self.detector_shape
        row, column = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
        index = np.stack([column, row, np.zeros_like(row)], -1).reshape(-1, 3).astype(np.float64)
        sources, pixels = [], []
        for view in self.views_deg:
            source = self.source_mm(view, isocenter)
            _require_outside(source, view, affine, shape)
            sources.append(source)
            pixels.append(world(self.detector_affine(view, isocenter), index).reshape(rows, columns, 3))
        return np.stack(sources), np.stack(pixels)


def _require_outside(source: np.ndarray, view: float, affine: Affine, shape: Sequence[int]) -> None:
    at = world(np.linalg.inv(np.asarray(affine, dtype=np.float64)), source)[0]
    if all(-0.5 <= place <= n - 0.5 for place, n in zip(at, shape, strict=True)):
        extent = " x ".join(f"{n * s:.0f}" for n, s in zip(shape, spacing_mm(affine), strict=True))
        raise GeometryError(
            f"the source of the view at {view:g} degrees inside the volume of {extent} mm",
            "it must be outside",
            "Increase source_to_isocenter_mm.",
        )
