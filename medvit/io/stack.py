"""Slice positions to one regular, straight stack, or what is irregular about them (PS3.3 C.7.6.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medvit.io.findings import Finding
from medvit.io.geometry import Affine
from medvit.io.headers import Plane

__all__ = ["SAME_MM", "Stack", "along_normal", "stack_up"]

Array = NDArray[np.float64]

SAME_MM = 0.01
"""Slices closer than this lie at the same position; headers round to a thousandth."""

_OFF_GRID = 0.05
"""How far a slice may lie from its place on the regular grid, as a share of the slice spacing."""

_TILT_DEGREES = 0.5
"""Largest angle between the stacking direction and the slice normal; scanners' gantry tilts start at about 1."""

_REMEDY = "Add --on-irregular resample (or split), or"


@dataclass(frozen=True, eq=False)
class Stack:
    """Planes in the order of their positions.

    Attributes:
        planes: sorted along the normal.
        positions: (slice, 3) centres of the first pixels, LPS millimetres.
        distance: (slice,) along the normal, millimetres.
        axes: (3, 3) unit vectors along a row, along a column and along the normal, as columns.
        spacing_mm: across, down, and the usual distance between slices.
        findings: what is irregular.
    """

    planes: tuple[Plane, ...]
    positions: Array
    distance: Array
    axes: Array
    spacing_mm: tuple[float, float, float]
    findings: tuple[Finding, ...]

    @property
    def affine(self) -> Affine:
        """LPS affine of (column, row, slice); exact for a regular stack, of the end points for any other."""
        affine = np.eye(4)
        affine[:3, 0] = self.axes[:, 0] * self.spacing_mm[0]
        affine[:3, 1] = self.axes[:, 1] * self.spacing_mm[1]
        count = len(self.planes)
        one = self.axes[:, 2] * self.spacing_mm[2]
        affine[:3, 2] = (self.positions[-1] - self.positions[0]) / (count - 1) if count > 1 else one
        affine[:3, 3] = self.positions[0]
        return affine


def along_normal(planes: Sequence[Plane]) -> Array:
    """Distance of each placed plane along the normal of the first, millimetres."""
    cosines = np.array(planes[0].orientation)
    return np.asarray(np.array([p.position for p in planes]) @ np.cross(cosines[:3], cosines[3:]))


def stack_up(planes: Sequence[Plane]) -> Stack:
    """Sort planes of one orientation, matrix and pixel spacing, and say what is irregular about their positions."""
    cosines = np.array(planes[0].orientation)
    across, down = cosines[:3], cosines[3:]
    normal = np.cross(across, down)
    positions = np.array([p.position for p in planes])
    pixel = planes[0].spacing or (0.0, 0.0)
    axes = np.column_stack([across, down, normal])
    early = _senseless(axes, positions)
    distance = positions @ normal
    order = np.argsort(distance, kind="stable")
    positions, distance = positions[order], distance[order]
    chosen = tuple(planes[int(n)] for n in order)
    between, found = (1.0, [early]) if early else _look(chosen, positions, distance, normal)
    return Stack(chosen, positions, distance, axes, (pixel[1], pixel[0], between), tuple(found))


def _senseless(axes: Array, positions: Array) -> Finding | None:
    if not (np.isfinite(positions).all() and np.isfinite(axes).all()):
        return Finding(
            "not_finite",
            "refused",
            "a slice position that is not a finite number",
            "each must be",
            "Export the series again.",
        )
    lengths = np.linalg.norm(axes, axis=0)
    if np.abs(lengths - 1).max() > 0.01 or abs(float(axes[:, 0] @ axes[:, 1])) > 0.01:
        return Finding(
            "not_perpendicular",
            "refused",
            "row and column directions that are not perpendicular unit vectors (ImageOrientationPatient)",
            "they must be",
            "Repair the tag or convert the series to NIfTI.",
        )
    return None


def _look(planes: tuple[Plane, ...], positions: Array, distance: Array, normal: Array) -> tuple[float, list[Finding]]:
    """The usual distance between slices, and all that is irregular."""
    if len(planes) == 1:
        thickness = planes[0].between or planes[0].thickness or 0.0
        lacking = Finding(
            "no_thickness",
            "refused",
            "a single slice without SliceThickness",
            "a volume needs one",
            "Add it or use NIfTI.",
        )
        return (thickness, []) if thickness > 0 else (1.0, [lacking])
    gaps = np.diff(distance)
    usual = float(np.median(gaps))
    at = distance[1:][gaps < SAME_MM]
    if len(at):
        found = Finding(
            "duplicate_positions",
            "refused",
            f"two slices at the same position ({at[0]:.2f} mm along the normal{_more(len(at), 'place')})",
            "each position needs one slice",
            "Two acquisitions or a copied file share the series: move the duplicates away.",
            _mm(at),
        )
        return max(usual, SAME_MM), [found]
    return usual, [*_gaps(distance, gaps, usual), *_direction(positions, distance, normal, usual, planes[0])]


def _more(count: int, what: str) -> str:
    return f", and {count - 1} more {what}{'s' if count > 2 else ''}" if count > 1 else ""


def _mm(values: Array) -> tuple[float, ...]:
    return tuple(round(float(v), 3) for v in values)


def _gaps(distance: Array, gaps: Array, usual: float) -> list[Finding]:
    """Missing slices where gaps are multiples of the usual one, otherwise uneven spacing."""
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
                "missing_slices",
                "irregular",
                f"a gap of {gaps[first]:.2f} mm between the slices at {distance[first]:.2f} and {distance[first + 1]:.2f} mm "
                f"where the spacing is {usual:.2f} mm{_more(len(wide), 'gap')}: {missing} slice(s) missing",
                "every slice is needed",
                f"{_REMEDY} export the complete series again.",
                _mm(np.column_stack([distance[wide], distance[wide + 1]]).ravel()),
            )
        ]
    odd = _mm(distance[:-1][np.abs(gaps - usual) > _OFF_GRID * usual])
    begins = f"; the first odd gap follows {odd[0]:.2f} mm" if odd else ""
    return [
        Finding(
            "uneven_spacing",
            "irregular",
            f"unevenly spaced slices (gaps from {gaps.min():.2f} to {gaps.max():.2f} mm, up to {off:.2f} mm off a regular "
            f"grid{begins})",
            "even spacing is needed",
            f"{_REMEDY} choose a reconstruction with even spacing.",
            odd,
        )
    ]


def _direction(positions: Array, distance: Array, normal: Array, usual: float, first: Plane) -> list[Finding]:
    """Gantry tilt, and slices shifted sideways against the line of the others."""
    path = (positions[-1] - positions[0]) / (distance[-1] - distance[0])
    tilt = float(np.degrees(np.arccos(np.clip(path @ normal / np.linalg.norm(path), -1, 1))))
    straight = positions[0] + (distance - distance[0])[:, None] * path
    aside = np.linalg.norm(positions - straight, axis=1)
    limit = min(0.2 * max(0.5, usual), max(0.1, 0.5 * min(first.spacing or (1.0,))))
    if aside.max() > limit:
        shifted = f"slices shifted sideways against each other (up to {aside.max():.2f} mm)"
        step = "Add --on-irregular resample, or choose another series."
        where = _mm(distance[aside > limit])
        return [Finding("shifted_slices", "irregular", shifted, "one straight stack is needed", step, where)]
    if tilt > _TILT_DEGREES:
        step = "Add --on-irregular resample, or choose a series reconstructed without tilt."
        needed = "slices must be stacked straight along their normal"
        return [Finding("gantry_tilt", "irregular", f"a gantry tilt of {tilt:.1f} degrees", needed, step)]
    return []
