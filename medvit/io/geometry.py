"""Conversion between LPS and RAS+ patient coordinates, and validation of affines. No other module does either.

medvit works in RAS+ millimetres, as NIfTI does; DICOM and ITK use LPS.
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
"""A (4, 4) float64 matrix from voxel indices to world millimetres."""

_SMALLEST_MM, _LARGEST_MM = 0.01, 100.0
"""Smallest and largest plausible side of a voxel. Clinical scanners give about 0.1 to 20 mm; a side outside this range
comes from a broken header, or from one in metres or micrometres.
"""

_SHEAR_COSINE = 0.02
"""Largest cosine between two voxel axes; a volume whose axes are more than about 1.1 degrees off square is sheared
(tilted).
"""


def flip_lps_ras(affine: Affine) -> Affine:
    """Negate x and y of a voxel-to-world matrix: LPS to RAS, or RAS to LPS.

    Args:
        affine: (4, 4), voxel index to millimetres.

    Returns:
        (4, 4) float64, voxel index to millimetres in the other convention.

    Examples:
        >>> import numpy as np
        >>> from medvit.io import flip_lps_ras
        >>> flip_lps_ras(np.eye(4)).diagonal()
        array([-1., -1.,  1.,  1.])
    """
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(affine, dtype=np.float64)


def slice_planes(affine: Affine, count: int) -> NDArray[np.float64]:
    """Return the matrix of each slice of a regular stack, (slice, 4, 4): index (column, row, 0) to the world of the
    affine.
    """
    planes = np.repeat(np.asarray(affine, dtype=np.float64)[None], count, 0)
    planes[:, :3, 3] += np.arange(count)[:, None] * planes[0, :3, 2]
    return planes


def spacing_mm(affine: Affine) -> tuple[float, float, float]:
    """Return the sides of a voxel along i, j, k.

    Args:
        affine: (4, 4), voxel index to millimetres.

    Returns:
        Three lengths in millimetres.

    Examples:
        >>> import numpy as np
        >>> from medvit.io import spacing_mm
        >>> spacing_mm(np.diag([0.8, 0.8, 2.5, 1.0]))
        (0.8, 0.8, 2.5)
    """
    x, y, z = np.linalg.norm(np.asarray(affine, dtype=np.float64)[:3, :3], axis=0)
    return float(x), float(y), float(z)


def axis_codes(affine: Affine) -> str:
    """Return the directions of i, j, k as letters, e.g. ``"RAS"`` or ``"PLI"``; the nearest letters for an oblique
    volume.

    Args:
        affine: (4, 4), voxel index to RAS+ millimetres.

    Returns:
        Three letters of R, L, A, P, S, I.

    Examples:
        >>> import numpy as np
        >>> from medvit.io import axis_codes
        >>> axis_codes(np.diag([-1.0, -1.0, 1.0, 1.0]))
        'LPS'
    """
    import nibabel as nib

    return "".join(nib.orientations.aff2axcodes(affine))


def world(affine: Affine, index: NDArray[np.float64]) -> NDArray[np.float64]:
    """Map voxel indices to world positions.

    Args:
        affine: (4, 4), voxel index to RAS+ millimetres.
        index: (n, 3) voxel indices; fractions are allowed.

    Returns:
        (n, 3) float64 positions in RAS+ millimetres.

    Examples:
        >>> import numpy as np
        >>> from medvit.io import world
        >>> world(np.diag([2.0, 2.0, 5.0, 1.0]), np.array([[1, 1, 1]]))
        array([[2., 2., 5.]])
    """
    index = np.atleast_2d(index)
    moved: NDArray[np.float64] = index @ affine[:3, :3].T + affine[:3, 3]
    return moved


def affine_fault(affine: Affine) -> tuple[str, str, str] | None:
    """Find a fault that makes measurements on a grid meaningless.

    Faults: values that are not finite, a spacing that is zero or implausible, axes that are not perpendicular.

    Returns:
        The fault, the requirement and a remedy, as parts of a message; None for a sound affine.
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
    """Refuse a grid on which measurements would be meaningless.

    Args:
        affine: (4, 4), voxel index to millimetres.

    Raises:
        GeometryError: the affine has one of the faults that ``affine_fault`` finds.

    Examples:
        >>> import numpy as np
        >>> from medvit.io import check_affine
        >>> check_affine(np.diag([0.8, 0.8, 2.5, 1.0]))
        >>> check_affine(np.diag([0.0, 0.8, 2.5, 1.0]))
        Traceback (most recent call last):
            ...
        medvit.errors.GeometryError: Found a voxel spacing of 0 x 0.8 x 2.5 mm; ...
    """
    fault = affine_fault(affine)
    if fault is not None:
        found, needed, step = fault
        raise GeometryError(found, needed, step)
