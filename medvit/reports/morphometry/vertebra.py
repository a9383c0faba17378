"""Measures of a vertebral body: heights, width, depth, angle of the endplates.

Anterior, middle and posterior heights are taken in the middle third of the body's width, as in six-point vertebral
morphometry (R. Eastell et al., J. Bone Miner. Res. 6(3), 1991; H. K. Genant et al., J. Bone Miner. Res. 8(9), 1993).
Here they are means over strips of a tenth of the depth, a twentieth away from the rims, since the rims alone have too
few voxels. The endplates' angle is the angle between the lines through their front and back strips; the height is the
distance between planes fitted to the endplates by least squares.

The body is separated from arch and processes by a morphological opening with a ball, which removes parts thinner than
the body; everything behind the body's back wall is removed with them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medvit.io import spacing_mm
from medvit.reports.morphometry.body import Body, unit
from medvit.reports.morphometry.measured import StructureMeasures

__all__ = ["NAMES", "measure_vertebra"]

NAMES = (
    "height_mm", "front_height_mm", "middle_height_mm", "back_height_mm", "width_mm", "depth_mm", "endplate_angle_deg",
)  # fmt: skip

_OPENING = 0.65
"""Radius of the ball of the opening, as a share of that of the largest ball that fits inside."""

_ARCH = 0.08
"""Smallest share of voxels outside the body that counts as an arch, which shows the posterior side."""

_FINE, _COARSE = 0.4, 2.0
"""Smallest and largest step, in mm, of the regular grid used for measuring."""

_ROUNDS = (2.0, 2.0, 2.0, 1.0, 1.0)
"""Steps of the grids in successive rounds of aligning the frame, in multiples of the voxels' smallest side."""

_LEAST_VOXELS = 5
"""Smallest height of the body in voxels."""

_SPUR = 0.4
"""Share of the median height below which a column is not part of the body: a spur, a rounded rim or a stray piece."""

_STRIPS = {"front_height_mm": (0.05, 0.15), "middle_height_mm": (0.45, 0.55), "back_height_mm": (0.85, 0.95)}
"""Strips of the depth, as shares from the front."""


@dataclass(frozen=True, eq=False)
class _Frame:
    """Coordinate frame of a vertebra: origin in its body, unit vectors to its front and top in RAS+."""

    origin: NDArray[np.float64]
    front: NDArray[np.float64]
    top: NDArray[np.float64]

    @property
    def axes(self) -> NDArray[np.float64]:
        """Unit vectors to right, front and top, (axis, 3)."""
        return np.stack([unit(np.cross(self.front, self.top)), self.front, self.top])


@dataclass(frozen=True, eq=False)
class _Columns:
    """The body as columns from the lower to the upper endplate, on a regular grid.

    Attributes:
        x, y: mm to the right and to the front, (column,).
        bottom, top: mm upwards, (column,).
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    bottom: NDArray[np.float64]
    top: NDArray[np.float64]

    def where(self, chosen: NDArray[np.bool_]) -> _Columns:
        """Return a subset of the columns."""
        return _Columns(self.x[chosen], self.y[chosen], self.bottom[chosen], self.top[chosen])


def measure_vertebra(body: Body) -> StructureMeasures:
    """Measure heights, width, depth and the endplates' angle."""
    found = StructureMeasures("vertebra")
    values = "the vertebra reaches the edge of the field; part of it may be missing" if body.cut else _values(body)
    for name in NAMES:
        found.put(name, values if isinstance(values, str) else values[name])
    return found


def _values(body: Body) -> dict[str, float] | str:
    frame = _Frame(body.places.mean(0), np.array([0.0, 1.0, 0.0]), np.array([0.0, 0.0, 1.0]))
    made: tuple[_Columns, NDArray[np.bool_], _Grid] | str = ""
    for coarseness in _ROUNDS:
        grid = _Grid.around(body, frame, coarseness)
        made = _columns(grid, body)
        if isinstance(made, str):
            return made
        columns, _, grid = made
        turned = _turned(grid.frame, columns)
        if isinstance(turned, str):
            return turned
        frame = turned
    assert not isinstance(made, str)
    columns, voxels, grid = made
    return _measured(columns, voxels, grid)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Grid:
    """The vertebra resampled in its own frame: (x, y, z) voxels of ``step`` mm; ``first`` is the centre of the first
    one.
    """

    frame: _Frame
    step: float
    first: NDArray[np.float64]
    voxels: NDArray[np.bool_]
    coarseness: float

    @classmethod
    def around(cls, body: Body, frame: _Frame, coarseness: float) -> _Grid:
        step = float(np.clip(coarseness * min(spacing_mm(body.affine)), _FINE, _COARSE))
        local = (body.places - frame.origin) @ frame.axes.T
        first, last = local.min(0) - 2 * body.side_mm, local.max(0) + 2 * body.side_mm
        counts = np.ceil((last - first) / step).astype(int) + 1
        places = np.stack(np.meshgrid(*(np.arange(n) * step for n in counts), indexing="ij"), -1) + first
        return cls(
            frame=frame,
            step=step,
            first=first,
            voxels=body.inside(places @ frame.axes + frame.origin),
            coarseness=coarseness,
        )

    def along(self, axis: int) -> NDArray[np.float64]:
        """Return the positions of the voxel centres along an axis, in mm."""
        middles: NDArray[np.float64] = self.first[axis] + np.arange(self.voxels.shape[axis]) * self.step
        return middles


def _core(grid: _Grid) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return the vertebral body, which an opening leaves with flat faces and rounded edges, and the voxels well away from it."""
    depth = ndimage.distance_transform_edt(grid.voxels)
    radius = _OPENING * float(depth.max())
    numbered, _ = ndimage.label(depth > radius)
    kept = numbered == numbered[np.unravel_index(int(depth.argmax()), depth.shape)]
    away = ndimage.distance_transform_edt(~kept)
    # a right-angled corner of the body lies up to 1.73 times the ball's radius from the ball's nearest centre
    return (away <= radius) & grid.voxels, (away > 1.8 * radius) & grid.voxels


def _columns(grid: _Grid, body: Body) -> tuple[_Columns, NDArray[np.bool_], _Grid] | str:
    """Return the body's columns in a frame aligned with its front."""
    core, rest = _core(grid)
    front = _front(grid, core, rest)
    if isinstance(front, str):
        return front
    if front @ grid.frame.front < np.cos(np.radians(1)):
        grid = _Grid.around(body, replace(grid.frame, front=front), grid.coarseness)
        core, _ = _core(grid)
    rows = np.flatnonzero(core.any((0, 2)))
    kept = grid.voxels.copy()
    kept[:, : rows[0]] = False
    numbered, _ = ndimage.label(kept)
    kept = numbered == np.bincount(numbered[core & kept]).argmax()
    there = kept.any(2)
    z = grid.along(2)
    bottom = z[kept.argmax(2)[there]] - grid.step / 2
    top = z[kept.shape[2] - 1 - kept[:, :, ::-1].argmax(2)[there]] + grid.step / 2
    x, y = np.meshgrid(grid.along(0), grid.along(1), indexing="ij")
    tall = top - bottom >= _SPUR * np.median(top - bottom)
    columns = _Columns(x[there], y[there], bottom, top).where(tall)
    high = float(np.median(columns.top - columns.bottom))
    if high < _LEAST_VOXELS * body.side_mm:
        return f"its body is {high:.0f} mm high, less than {_LEAST_VOXELS} voxels of {body.side_mm:.1f} mm"
    return columns, kept, grid


def _front(grid: _Grid, core: NDArray[np.bool_], rest: NDArray[np.bool_]) -> NDArray[np.float64] | str:
    """Find the direction of the front: away from the arch, or for a body without arch the body's axis nearest to the
    patient's front.
    """
    top = grid.frame.top
    middle = _middle(grid, core)
    if rest.sum() >= _ARCH * grid.voxels.sum():
        away = (middle - _middle(grid, rest)) @ grid.frame.axes
        front = unit(away - (away @ top) * top)
        return front if front[1] > 0.25 else "its arch does not lie behind its body, as the image's axes have it"
    flat = np.argwhere(core)[:, :2] * grid.step
    spread, ways = np.linalg.eigh(np.cov(flat.T))
    patient = grid.frame.axes @ np.array([0.0, 1.0, 0.0])
    near = ways[:, 0] * np.sign(patient[:2] @ ways[:, 0])  # the short axis: a body is wider than deep
    if np.sqrt(spread[1] / spread[0]) < 1.1:
        near = unit(patient[:2])  # too round for an axis of its own
    if near @ unit(patient[:2]) < np.cos(np.radians(40)):
        return "it has no arch to tell its front by, and lies askew"
    return unit(near @ grid.frame.axes[:2])


def _middle(grid: _Grid, voxels: NDArray[np.bool_]) -> NDArray[np.float64]:
    made: NDArray[np.float64] = np.argwhere(voxels).mean(0) * grid.step + grid.first
    return made


def _inner(columns: _Columns) -> _Columns:
    """Return the columns of the endplates without their rims: at most 0.35 times width and depth from the middle."""
    return columns.where((np.abs(_share(columns.x)) < 0.35) & (np.abs(_share(columns.y)) < 0.35))


def _share(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale positions to -0.5..0.5 of their range."""
    low, high = values.min(), values.max()
    share: NDArray[np.float64] = (values - (low + high) / 2) / max(high - low, 1e-9)
    return share


def _plane(columns: _Columns, heights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fit a plane: height at the origin, rise to the right and to the front. Outliers beyond twice the scatter are left
    out once.
    """
    table = np.column_stack([np.ones(len(columns.x)), columns.x, columns.y])
    found = np.linalg.lstsq(table, heights, rcond=None)[0]
    off = np.abs(heights - table @ found)
    kept = off <= 2 * np.sqrt((off**2).mean()) + 1e-9
    return np.asarray(np.linalg.lstsq(table[kept], heights[kept], rcond=None)[0])


def _turned(frame: _Frame, columns: _Columns) -> _Frame | str:
    """Align the frame's top with the mean of the endplates' normals."""
    inner = _inner(columns)
    if len(inner.x) < 12:
        return "its body has too few voxels"
    normals = [unit(np.array([-b, -c, 1.0])) for _, b, c in (_plane(inner, inner.top), _plane(inner, inner.bottom))]
    top = unit(unit(normals[0] + normals[1]) @ frame.axes)
    if top[2] < np.cos(np.radians(60)):
        return "it lies so flat that its top cannot be told"
    middle = np.array([columns.x.mean(), columns.y.mean(), (columns.top.mean() + columns.bottom.mean()) / 2])
    return _Frame(frame.origin + middle @ frame.axes, unit(frame.front - (frame.front @ top) * top), top)


def _measured(columns: _Columns, voxels: NDArray[np.bool_], grid: _Grid) -> dict[str, float] | str:
    inner = _inner(columns)
    upper, lower = _plane(inner, inner.top), _plane(inner, inner.bottom)
    at = np.array([1.0, float(columns.x.mean()), float(columns.y.mean())])
    values = {"height_mm": float(at @ (upper - lower))}
    band = columns.where(np.abs(_share(columns.x)) < 1 / 6)
    front, depth = float(band.y.max()) + grid.step / 2, float(np.ptp(band.y)) + grid.step
    means = []
    for name, (near, far) in _STRIPS.items():
        strip = band.where((band.y <= front - near * depth) & (band.y >= front - far * depth))
        if not len(strip.x):
            return "its body has too few voxels"
        means.append(np.array([strip.y.mean(), strip.bottom.mean(), strip.top.mean()]))
        values[name] = float(means[-1][2] - means[-1][1])
    run, *rises = means[0] - means[-1]  # from back to front
    below, above = np.degrees(np.arctan2(rises, run))
    values["endplate_angle_deg"] = float(below - above)
    third = np.abs(grid.along(2) - (columns.top.mean() + columns.bottom.mean()) / 2) < values["height_mm"] / 6
    values["width_mm"] = _extent(voxels[:, :, third], 0, 1) * grid.step
    values["depth_mm"] = _extent(voxels[:, :, third], 1, 0) * grid.step
    return values


def _extent(voxels: NDArray[np.bool_], axis: int, across: int) -> float:
    """Return the mean extent in voxels along an axis, over lines in the middle third of the range along another axis."""
    spanned = np.flatnonzero(voxels.any(tuple(n for n in range(3) if n != across)))
    count = int(spanned[-1] - spanned[0]) + 1
    chosen = spanned[0] + np.arange(count // 3, max(count // 3 + 1, count - count // 3))
    lines = np.take(voxels, chosen, axis=across)
    first, last = lines.argmax(axis), lines.shape[axis] - 1 - np.flip(lines, axis).argmax(axis)
    return float((last - first + 1)[lines.any(axis)].mean())
