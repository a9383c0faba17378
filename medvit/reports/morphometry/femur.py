"""Measures of a femur.

Lengths and breadths follow R. Martin, Lehrbuch der Anthropologie (measures 1 and 21). The head is a sphere fitted to
its surface. The neck-shaft (CCD) angle lies between the shaft's axis and the neck's axis, from the head's centre
through the narrowest part of the neck. The offset is the distance of the head's centre from the shaft's axis (P. C.
Noble et al., Clin. Orthop. 235, 1988). The head is searched at the end that lies higher in the patient.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medvit.reports.diameter import longest_diameter
from medvit.reports.morphometry.body import Body, Sections, sections, unit
from medvit.reports.morphometry.measured import StructureMeasures
from medvit.reports.morphometry.spheres import Ball, BallSearch, fit_ball

__all__ = ["measure_femur"]

_HEAD = (8.0, 36.0)
"""Smallest and largest radius of heads in mm, from small children to large adults, with a margin."""

_PROXIMAL = (0.35, 100.0)
"""Extent below the top in which the head is searched: this share of the length or these mm, whichever is less."""

_ASIDE = 0.6
"""Smallest distance of a head's centre from the shaft's axis, in multiples of the head's radius."""

_DISTAL = 0.15
"""Share of the length that the condyles take."""

_CONDYLES = 1.8
"""Smallest ratio of the lower end's width to the shaft's thickness."""

_SHAFT = 1.4
"""Largest ratio of a shaft cross-section's area to the area of a slender one."""

_CUT = "the bone reaches the edge of the field; part of it may be missing"


@dataclass(frozen=True, eq=False)
class _Line:
    """An axis: a point and a unit vector upwards."""

    origin: NDArray[np.float64]
    up: NDArray[np.float64]

    def distance(self, point: NDArray[np.float64]) -> float:
        away = point - self.origin
        return float(np.linalg.norm(away - (away @ self.up) * self.up))


def measure_femur(body: Body) -> StructureMeasures:
    """Measure length, head, neck-shaft angle, offset and epicondylar breadth."""
    found = StructureMeasures("femur")
    shaft = _shaft(body)
    head: Ball | str = shaft if isinstance(shaft, str) else _head(body, shaft)
    below = _CUT if body.cut else shaft if isinstance(shaft, str) else _breadth(body, shaft)
    both_ends = next((end for end in (below, head) if isinstance(end, str)), None)
    found.put("length_mm", both_ends or longest_diameter(body.mask, body.affine[:3, :3]))
    found.put("head_radius_mm", head if isinstance(head, str) else head.radius_mm)
    if isinstance(shaft, str) or isinstance(head, str):
        reason = shaft if isinstance(shaft, str) else f"without a head there is none: {head}"
        found.put("offset_mm", reason)
        found.put("neck_shaft_deg", reason)
    else:
        found.put("offset_mm", shaft.distance(head.centre))
        found.put("neck_shaft_deg", _neck_shaft(body, shaft, head))
    found.put("epicondylar_breadth_mm", below)
    return found


def _longest(places: NDArray[np.float64]) -> NDArray[np.float64]:
    return unit(np.linalg.eigh(np.cov(places.T))[1][:, -1])


def _shaft(body: Body) -> _Line | str:
    """Fit a line to the centres of the longest run of slender cross-sections."""
    up = _longest(body.places)
    line = _Line(body.places.mean(0), up)
    for _ in range(3):
        across = sections(body.places, body.voxel_mm3, body.places @ line.up, 1.5 * body.side_mm)
        run = _slender(across)
        if len(run.at_mm) < 4 or np.ptp(run.at_mm) < 2 * np.sqrt(4 * np.median(run.areas_mm2) / np.pi):
            return "too little of the shaft is there to tell its direction"
        middle = run.middles.mean(0)
        up = unit(np.linalg.svd(run.middles - middle)[2][0])
        line = _Line(middle, up * (1 if up[2] >= 0 else -1))
    if line.up[2] < 0.3:
        return "the bone lies so flat that its upper end cannot be told"
    return line


def _slender(across: Sections) -> Sections:
    """Return the longest run of cross-sections of about the smallest area, without the first and last slab, which are
    partly empty.
    """
    inner = across[slice(1, -1)]
    if not len(inner.at_mm):
        return inner
    small = inner.areas_mm2 <= _SHAFT * np.percentile(inner.areas_mm2, 25)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], small.astype(np.int8), [0]])))
    runs = edges.reshape(-1, 2)
    start, end = runs[np.argmax(runs[:, 1] - runs[:, 0])]
    trim = 1 if end - start > 6 else 0  # the shaft widens near the ends of the run
    return inner[slice(int(start) + trim, int(end) - trim)]


def _head(body: Body, shaft: _Line) -> Ball | str:
    vertices = body.surface.vertices
    height = vertices @ shaft.up
    share, most = _PROXIMAL
    region = height > height.max() - min(share * float(np.ptp(height)), most)
    tolerance = max(0.6 * body.side_mm, 0.8)
    found = fit_ball(vertices[region], body.normals[region], BallSearch(_HEAD, 0.6, tolerance))
    if isinstance(found, Ball) and shaft.distance(found.centre) < _ASIDE * found.radius_mm:
        return "what is round at its upper end lies on the shaft's axis, where no head is"
    return found


def _neck_shaft(body: Body, shaft: _Line, head: Ball) -> float | str:
    """Return the angle in degrees between the shaft downwards and the neck towards the head."""
    away = body.places - head.centre
    distance = np.linalg.norm(away, axis=1)
    shell = (distance > head.radius_mm + 0.5 * body.side_mm) & (distance < 1.25 * head.radius_mm + body.side_mm)
    if shell.sum() < 10:
        return "no neck leads away from the head"
    neck = unit(away[shell].mean(0))
    for _ in range(4):
        along = away @ neck
        aside = np.linalg.norm(away - along[:, None] * neck, axis=1)
        near = (along > 0.8 * head.radius_mm) & (along < 2.2 * head.radius_mm) & (aside < 1.3 * head.radius_mm)
        if near.sum() < 10:
            return "no neck leads away from the head"
        across = sections(body.places[near], body.voxel_mm3, along[near], body.side_mm)[slice(1, -1)]
        if len(across.at_mm) < 3:
            return "the neck is too short for its voxels"
        narrow = across.areas_mm2 <= 1.15 * np.percentile(across.areas_mm2, 10)
        if np.sqrt(4 * across.areas_mm2[narrow].min() / np.pi) > 1.9 * head.radius_mm:
            return "no part narrower than the head follows it"
        neck = unit((across.middles[narrow] - head.centre).mean(0))
    return float(np.degrees(np.arccos(np.clip(neck @ shaft.up, -1, 1))))


def _breadth(body: Body, shaft: _Line) -> float | str:
    """Measure the extent of the lower end perpendicular to the shaft, along its widest direction."""
    vertices = body.surface.vertices
    height = vertices @ shaft.up
    lower = vertices[height < height.min() + _DISTAL * np.ptp(height)]
    flat = lower - (lower @ shaft.up)[:, None] * shaft.up
    wide = float(np.ptp(flat @ _longest(flat)))
    across = sections(body.places, body.voxel_mm3, body.places @ shaft.up, 1.5 * body.side_mm)
    thick = float(np.sqrt(4 * np.median(_slender(across).areas_mm2) / np.pi))
    if wide < _CONDYLES * thick:
        return "its lower end is no wider than its shaft: the condyles are missing"
    return wide
