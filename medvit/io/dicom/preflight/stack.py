"""Sorting of slices to a stack by position, with findings where it is not regular and straight (PS3.3 C.7.6.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from medvit.io.dicom.header import PlaneHeader
from medvit.io.dicom.preflight.findings import Finding
from medvit.io.geometry import Affine, affine_fault

__all__ = ["Stack", "build_stack", "distances_along_normal", "same_position_tolerance_mm"]

Array = NDArray[np.float64]

_SAME_MM, _SAME_PIXELS = 0.01, 0.1
"""Distance in millimetres, and as a share of a pixel, below which slices lie at the same position. Headers round to a
thousandth, and a table that returns for the next time point deviates by some hundredths.
"""

_UNEVEN_AXES, _ROUGHEST_AXES = 1e-4, 0.01
"""Deviations of directions from perpendicular unit vectors: up to the first they are used as stated, up to about the
second they are corrected.
"""

_OFF_GRID = 0.05
"""Largest distance of a slice from its place on the regular grid, as a share of the slice spacing."""

_TILT_DEGREES = 0.5
"""Largest angle between the stacking direction and the slice normal, in degrees; gantry tilts of scanners start at
about 1.
"""

_WAYS = ("resample", "split")


@dataclass(frozen=True, kw_only=True, eq=False)
class Stack:
    """Planes in the order of their positions.

    Attributes:
        planes: sorted along the normal.
        positions: (slice, 3) centres of the first pixels, LPS millimetres.
        distance: (slice,) along the normal, millimetres.
        axes: (3, 3) unit vectors along a row, along a column and along the normal, as columns.
        spacing_mm: across, down, and the median distance between slices.
        findings: irregularities.
    """

    planes: tuple[PlaneHeader, ...]
    positions: Array
    distance: Array
    axes: Array
    spacing_mm: tuple[float, float, float]
    findings: tuple[Finding, ...]

    @property
    def affine(self) -> Affine:
        """(4, 4), index (column, row, slice) to LPS millimetres; exact for a regular stack, else through the first and
        last slice.
        """
        affine = np.eye(4)
        affine[:3, 0] = self.axes[:, 0] * self.spacing_mm[0]
        affine[:3, 1] = self.axes[:, 1] * self.spacing_mm[1]
        count = len(self.planes)
        one = self.axes[:, 2] * self.spacing_mm[2]
        affine[:3, 2] = (self.positions[-1] - self.positions[0]) / (count - 1) if count > 1 else one
        affine[:3, 3] = self.positions[0]
        return affine


def same_position_tolerance_mm(plane: PlaneHeader) -> float:
    """Return the largest distance between two slices like this one that still counts as one position."""
    return max(_SAME_MM, _SAME_PIXELS * min(plane.spacing or (0.0,)))


def distances_along_normal(planes: Sequence[PlaneHeader]) -> Array:
    """Return the position of each placed plane along the normal of the first, (plane,), millimetres."""
    cosines = np.array(planes[0].orientation)
    normal = _across_both(cosines[:3], cosines[3:])
    return np.asarray(np.array([p.position for p in planes]) @ (normal / (np.linalg.norm(normal) or 1.0)))


def _across_both(a: Array, b: Array) -> Array:
    """Compute the cross product of two vectors; ``numpy.cross`` takes ten times as long, most of it to check its
    arguments.
    """
    (x, y, z), (u, v, w) = a.tolist(), b.tolist()
    return np.array([y * w - z * v, z * u - x * w, x * v - y * u])


def build_stack(planes: Sequence[PlaneHeader]) -> Stack:
    """Sort planes of one orientation, matrix and pixel spacing; report irregular positions as findings."""
    cosines = np.array(planes[0].orientation)
    axes, said = _axes(cosines[:3], cosines[3:])
    positions = np.array([p.position for p in planes])
    distance = positions @ axes[:, 2]
    order = np.argsort(distance, kind="stable")
    positions, distance = positions[order], distance[order]
    chosen = tuple(planes[int(n)] for n in order)
    pixel = planes[0].spacing or (0.0, 0.0)
    if any(f.severity == "refused" for f in said):
        return Stack(
            planes=chosen,
            positions=positions,
            distance=distance,
            axes=axes,
            spacing_mm=(pixel[1], pixel[0], 1.0),
            findings=tuple(said),
        )
    between, found = _look(chosen, positions, distance, axes[:, 2])
    stack = Stack(
        planes=chosen,
        positions=positions,
        distance=distance,
        axes=axes,
        spacing_mm=(pixel[1], pixel[0], between),
        findings=(*said, *found),
    )
    if not found and (fault := _fault(stack)):
        text, needed, step = fault
        absurd = Finding(code="absurd_spacing", severity="refused", found=text, needed=needed, step=step)
        stack = replace(stack, findings=(*said, absurd))
    return stack


def _fault(stack: Stack) -> tuple[str, str, str] | None:
    """Return the fault of a stack's voxel sides as parts of a message, or None. A negative side would mirror the image."""
    pixel = stack.spacing_mm[:2]
    if min(pixel) <= 0:
        found = f"a PixelSpacing of {pixel[1]:g} x {pixel[0]:g} mm"
        return found, "both sides must be positive", "Repair the tag or convert the series to NIfTI."
    return affine_fault(stack.affine)


def _axes(across: Array, down: Array) -> tuple[Array, list[Finding]]:
    """Return unit vectors along a row, a column and the normal, as columns, with findings on corrections of the stated
    directions.
    """
    sides = np.column_stack([across, down])
    off = float(np.abs(sides.T @ sides - np.eye(2)).max())
    if off > 2 * _ROUGHEST_AXES:
        found = "row and column directions that are not perpendicular unit vectors (ImageOrientationPatient)"
        step = "Repair the tag or convert the series to NIfTI."
        return np.eye(3), [
            Finding(
                code="not_perpendicular",
                severity="refused",
                found=found,
                needed="they must be perpendicular",
                step=step,
            )
        ]
    said = []
    if off > _UNEVEN_AXES:
        found = (
            f"row and column directions up to {off:.2g} off perpendicular unit vectors (ImageOrientationPatient); the "
            "nearest such vectors are used"
        )
        said = [Finding(code="rough_orientation", severity="note", found=found)]
        u, _, v = np.linalg.svd(sides, full_matrices=False)
        sides = u @ v
    normal = _across_both(sides[:, 0], sides[:, 1])
    return np.column_stack([sides, normal / np.linalg.norm(normal)]), said


def _look(
    planes: tuple[PlaneHeader, ...], positions: Array, distance: Array, normal: Array
) -> tuple[float, list[Finding]]:
    """Return the median distance between slices, and findings on irregular positions."""
    if len(planes) == 1:
        thickness = max(planes[0].between or 0.0, 0.0) or planes[0].thickness or 0.0
        lacking = Finding(
            code="no_thickness",
            severity="refused",
            found="a single slice without SliceThickness",
            needed="a volume needs one",
            step="Add it or use NIfTI.",
        )
        return (thickness, []) if thickness > 0 else (1.0, [lacking])
    gaps = np.diff(distance)
    usual = float(np.median(gaps))
    same = same_position_tolerance_mm(planes[0])
    at = distance[1:][gaps < same]
    if len(at):
        found = Finding(
            code="duplicate_positions",
            severity="refused",
            found=f"two slices at the same position ({at[0]:.2f} mm along the normal{_more(len(at), 'place')})",
            needed="each position needs one slice",
            step="Two acquisitions or a copied file share the series: move the duplicates away.",
            positions_mm=_mm(at),
        )
        apart = gaps[gaps >= same]
        return float(np.median(apart)) if len(apart) else same, [found]
    return usual, [*_gaps(distance, gaps, usual), *_direction(positions, distance, normal, usual, planes[0])]


def _more(count: int, what: str) -> str:
    return f", and {count - 1} more {what}{'s' if count > 2 else ''}" if count > 1 else ""


def _mm(values: Array) -> tuple[float, ...]:
    return tuple(round(float(v), 3) for v in values)


def _gaps(distance: Array, gaps: Array, usual: float) -> list[Finding]:
    """Report missing slices where gaps are multiples of the median gap, otherwise uneven spacing."""
    count = len(distance)
    even = distance[0] + np.arange(count) * (distance[-1] - distance[0]) / (count - 1)
    off = float(np.abs(distance - even).max())
    if off <= _OFF_GRID * usual:
        return []
    times = np.rint(gaps / usual)
    if times.max() > 1 and times.min() >= 1 and np.abs(gaps / usual - times).max() < _OFF_GRID:
        wide = np.flatnonzero(times > 1)
        first, missing = int(wide[0]), int((times - 1).sum())
        return [
            Finding(
                code="missing_slices",
                severity="irregular",
                found=f"a gap of {gaps[first]:.2f} mm between the slices at {distance[first]:.2f} and {distance[first + 1]:.2f} mm "
                f"where the spacing is {usual:.2f} mm{_more(len(wide), 'gap')}: {missing} slice(s) missing",
                needed="every slice is needed",
                step="export the complete series again.",
                positions_mm=_mm(np.column_stack([distance[wide], distance[wide + 1]]).ravel()),
                ways=_WAYS,
            )
        ]
    odd = _mm(distance[:-1][np.abs(gaps - usual) > _OFF_GRID * usual])
    begins = f"; the first odd gap follows {odd[0]:.2f} mm" if odd else ""
    return [
        Finding(
            code="uneven_spacing",
            severity="irregular",
            found=f"unevenly spaced slices (gaps from {gaps.min():.2f} to {gaps.max():.2f} mm, up to {off:.2f} mm off a regular "
            f"grid{begins})",
            needed="even spacing is needed",
            step="choose a reconstruction with even spacing.",
            positions_mm=odd,
            ways=_WAYS,
        )
    ]


def _direction(positions: Array, distance: Array, normal: Array, usual: float, first: PlaneHeader) -> list[Finding]:
    """Report a gantry tilt, and slices shifted sideways from the line of the others."""
    path = (positions[-1] - positions[0]) / (distance[-1] - distance[0])
    tilt = float(np.degrees(np.arccos(np.clip(path @ normal / np.linalg.norm(path), -1, 1))))
    straight = positions[0] + (distance - distance[0])[:, None] * path
    aside = np.linalg.norm(positions - straight, axis=1)
    limit = min(0.2 * max(0.5, usual), max(0.1, 0.5 * min(first.spacing or (1.0,))))
    if aside.max() > limit:
        shifted = f"slices shifted sideways against each other (up to {aside.max():.2f} mm)"
        step = "choose another series."
        where = _mm(distance[aside > limit])
        return [
            Finding(
                code="shifted_slices",
                severity="irregular",
                found=shifted,
                needed="one straight stack is needed",
                step=step,
                positions_mm=where,
                ways=_WAYS[:1],
            )
        ]
    if tilt > _TILT_DEGREES:
        step = "choose a series reconstructed without tilt."
        needed = "slices must be stacked straight along their normal"
        return [
            Finding(
                code="gantry_tilt",
                severity="irregular",
                found=f"a gantry tilt of {tilt:.1f} degrees",
                needed=needed,
                step=step,
                ways=_WAYS[:1],
            )
        ]
    return []
