"""The one place where patient coordinates are converted and judged.

Inside medvit the world is RAS+ millimetres (NIfTI's convention); DICOM and ITK speak LPS.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from medvit.errors import GeometryError

__all__ = [
    "Affine",
    "affine_fault",
    "axis_codes",
    "check_affine",
    "flip_lps_ras",
    "slice_planes",
    "spacing_mm",
    "world",
]

Affine: TypeAlias = NDArray[np.float64]

_SMALLEST_MM, _LARGEST_MM = 0.01, 100.0
"""Voxel sides outside this range are a broken header, or one in metres or micrometres: clinical scanners go from about
0.1 to 20 mm."""

_SHEAR_COSINE = 0.02
"""Largest cosine between two voxel axes; more than about 1.1 degrees off square is a sheared (tilted) volume."""


def flip_lps_ras(affine: Affine) -> Affine:
    """The same voxel-to-world map with x and y negated: LPS to RAS and, alike, RAS to LPS."""
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(affine, dtype=np.float64)


def slice_planes(affine: Affine, count: int) -> NDArray[np.float64]:
    """(slice, 4, 4): (column, row, 0) of each slice of a regular stack to the affine's world."""
    planes = np.repeat(np.asarray(affine, dtype=np.float64)[None], count, 0)
    planes[:, :3, 3] += np.arange(count)[:, None] * planes[0, :3, 2]
    return planes


def spacing_mm(affine: Affine) -> tuple[float, float, float]:
    """Voxel sides along i, j, k in millimetres."""
    x, y, z = np.linalg.norm(np.asarray(affine, dtype=np.float64)[:3, :3], axis=0)
    return float(x), float(y), float(z)


def axis_codes(affine: Affine) -> str:
    """Where i, j, k point, e.g. ``"RAS"`` or ``"PLI"``, nearest letters for an oblique volume."""
    import nibabel as nib

    return "".join(nib.orientations.aff2axcodes(affine))


def world(affine: Affine, index: NDArray[np.float64]) -> NDArray[np.float64]:
    """World positions (n, 3) in RAS+ millimetres of voxel indices (n, 3)."""
    index = np.atleast_2d(index)
    moved: NDArray[np.float64] = index @ affine[:3, :3].T + affine[:3, 3]
    return moved


def affine_fault(affine: Affine) -> tuple[str, str, str] | None:
    """What is found, what is needed and the step to take, for a geometry on which no measurement could be trusted: one
    that is not finite, has a zero or absurd spacing, or axes that are not square to each other; or None.
    """
    affine = np.asarray(affine, dtype=np.float64)
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        found, needed = "an affine that is not a finite 4x4 matrix", "voxels need a place in the patient"
        return found, needed, "Repair the header (for NIfTI: its sform or qform)."
    sides = spacing_mm(affine)
    if not all(_SMALLEST_MM <= round(side, 6) <= _LARGEST_MM for side in sides):  # headers hold 32-bit numbers
        found = f"a voxel spacing of {' x '.join(f'{side:g}' for side in sides)} mm"
        needed = f"each side must lie between {_SMALLEST_MM:g} and {_LARGEST_MM:g} mm"
        return found, needed, "Correct the spacing in the header and run again."
    axes = affine[:3, :3] / np.array(sides)
    cosines = np.abs(axes.T @ axes - np.eye(3))
    if cosines.max() > _SHEAR_COSINE:
        angle = np.degrees(np.arcsin(min(1.0, float(cosines.max()))))
        found = f"voxel axes {angle:.1f} degrees away from square (a sheared or tilted volume)"
        return found, "they must be perpendicular", "Resample the volume to a straight grid first."
    return None


def check_affine(affine: Affine) -> None:
    """Refuse a geometry on which no measurement could be trusted.

    Raises:
        GeometryError: see ``affine_fault``.
    """
    fault = affine_fault(affine)
    if fault is not None:
        found, needed, step = fault
        raise GeometryError(f"Found {found}; {needed}. {step}")
