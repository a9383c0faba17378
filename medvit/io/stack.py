"""Slice positions to one regular, straight stack, or the reason why they are none (PS3.3 C.7.6.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydicom import Dataset

from medvit.errors import GeometryError, ImageError, SelectionError, SourceError
from medvit.io.geometry import Affine

__all__ = ["check_consistent", "stack"]

_OFF_GRID = 0.05
"""How far a slice may lie from its place on the regular grid, as a share of the slice spacing."""

_TILT_DEGREES = 0.5
"""Largest angle between the stacking direction and the slice normal; scanners' gantry tilts start at about 1."""


def check_consistent(headers: Sequence[Dataset]) -> None:
    """Refuse slices that cannot be one volume.

    Raises:
        SelectionError, SourceError, ImageError, GeometryError: what differs or is lacking.
    """
    first = headers[0]
    if len({str(h.get("PatientID", "")) for h in headers}) > 1:
        raise SelectionError(
            "Found several patients under one SeriesInstanceUID; a series belongs to one. Separate the files first."
        )
    if any(int(h.get("NumberOfFrames", 1) or 1) > 1 for h in headers):
        raise SourceError(
            "Found a multi-frame DICOM file; single-frame slices are needed so far. "
            "Convert it to NIfTI (for example with dcm2niix) and run again."
        )
    if int(first.get("SamplesPerPixel", 1) or 1) != 1:
        raise ImageError(
            "Found colour pixels (a photograph or screen capture); grey values are needed. Choose another series."
        )
    for tag in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        lacking = sum(1 for h in headers if not h.get(tag))
        if lacking:
            raise GeometryError(
                f"Found {lacking} of {len(headers)} slices without {tag}; every slice needs its place in the "
                "patient. Choose a cross-sectional series, or convert it to NIfTI with a known geometry."
            )
    for tag, tolerance in (("ImageOrientationPatient", 1e-3), ("PixelSpacing", 1e-3)):
        values = np.array([[float(v) for v in h.get(tag)] for h in headers])
        if np.ptp(values, axis=0).max() > tolerance:
            raise GeometryError(
                f"Found slices that differ in {tag}; one volume needs it equal. "
                "The series mixes acquisitions (a localizer, say): move the odd slices away."
            )
    sizes = {(int(h.Rows), int(h.Columns)) for h in headers}
    if len(sizes) > 1:
        shown = ", ".join(f"{r}x{c}" for r, c in sorted(sizes))
        raise GeometryError(
            f"Found slices of different sizes ({shown}); one volume needs one. Move the odd slices away."
        )


def stack(headers: Sequence[Dataset]) -> tuple[Affine, list[int]]:
    """Affine (LPS) of (column, row, slice) and the order of the files along the slice normal.

    Raises:
        GeometryError: the slices are not one regular, straight stack; the message says where, in mm along the normal.
    """
    cosines = np.array([float(v) for v in headers[0].ImageOrientationPatient])
    along_row, along_column = cosines[:3], cosines[3:]
    normal = np.cross(along_row, along_column)
    if abs(np.linalg.norm(normal) - 1) > 0.01:
        raise GeometryError(
            "Found row and column directions that are not perpendicular unit vectors (ImageOrientationPatient); "
            "they must be. Repair the tag or convert the series to NIfTI."
        )
    positions = np.array([[float(v) for v in h.ImagePositionPatient] for h in headers])
    if not np.isfinite(positions).all():
        raise GeometryError(
            "Found a slice position that is not a finite number; each must be. Export the series again."
        )
    distance = positions @ normal
    order = [int(n) for n in np.argsort(distance, kind="stable")]
    positions, distance = positions[order], distance[order]
    step = _step(headers[0], positions, distance, normal)
    down, across = (float(v) for v in headers[0].PixelSpacing)
    affine = np.eye(4)
    affine[:3, 0] = along_row * across
    affine[:3, 1] = along_column * down
    affine[:3, 2] = step
    affine[:3, 3] = positions[0]
    return affine, order


def _step(first: Dataset, positions: Any, distance: Any, normal: Any) -> Any:
    """The vector from one slice to the next; refuses a stack that is not regular and straight."""
    count = len(distance)
    if count == 1:
        thickness = float(first.get("SpacingBetweenSlices") or first.get("SliceThickness") or 0)
        if thickness <= 0:
            raise GeometryError("Found a single slice without SliceThickness; a volume needs one. Add it or use NIfTI.")
        return normal * thickness
    gaps = np.diff(distance)
    typical = float(np.median(gaps))
    if gaps.min() < 1e-3 or typical < 1e-3:
        where = float(distance[int(gaps.argmin())])
        raise GeometryError(
            f"Found two slices at the same position ({where:.2f} mm along the normal); each position needs one slice. "
            "Two acquisitions or a copied file share the series: move the duplicates away."
        )
    wide = int(gaps.argmax())
    missing = round(gaps[wide] / typical) - 1
    if missing and abs(gaps[wide] / typical - missing - 1) < _OFF_GRID:
        raise GeometryError(
            f"Found a gap of {gaps[wide]:.2f} mm between the slices at {distance[wide]:.2f} and {distance[wide + 1]:.2f} mm "
            f"where the spacing is {typical:.2f} mm: {missing} slice(s) missing. Export the complete series again."
        )
    regular = distance[0] + np.arange(count) * (distance[-1] - distance[0]) / (count - 1)
    off = float(np.abs(distance - regular).max())
    if off > _OFF_GRID * typical:
        raise GeometryError(
            f"Found unevenly spaced slices (gaps from {gaps.min():.2f} to {gaps.max():.2f} mm, up to {off:.2f} mm off a "
            "regular grid); even spacing is needed. Choose a reconstruction with even spacing."
        )
    step = (positions[-1] - positions[0]) / (count - 1)
    tilt = np.degrees(np.arccos(np.clip(step @ normal / np.linalg.norm(step), -1, 1)))
    if tilt > _TILT_DEGREES:
        raise GeometryError(
            f"Found a gantry tilt of {tilt:.1f} degrees; slices must be stacked straight along their normal. "
            "Choose a series reconstructed without tilt."
        )
    sideways = positions - (positions[0] + np.arange(count)[:, None] * step)
    if float(np.linalg.norm(sideways, axis=1).max()) > max(0.5, typical) * 0.2:
        raise GeometryError(
            "Found slices shifted sideways against each other; one straight stack is needed. Choose another series."
        )
    return step
