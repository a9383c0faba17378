"""Sphere fitted to a part of a bone's surface: the head of a femur from outside, an acetabulum from inside.

Many spheres are tried, each through two points with its centre on the normal of the first (RANSAC: M. A. Fischler, R.
C. Bolles, Comm. ACM 24(6), 1981). Those that most of the surface lies on, with the right orientation, are refined by
least squares, and the best one is returned. The random points are the same on every call.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Ball", "BallSearch", "fit_ball"]

_TRIALS, _SECONDS, _POINTS = 1500, 6, 3000
"""Number of first points tried, number of second points for each of them, and largest number of surface vertices used."""

_REFINED = 12
"""Number of spheres refined by least squares, those with the most points."""

_FACING = 0.75
"""Smallest cosine between the normals of surface and sphere for a point to lie on the sphere."""

_NEAR_COSINE = np.cos(np.radians(10))
_THIN = 0.06
"""Largest distance from the sphere, as a share of its radius; with coarse voxels, a larger one would accept a cylinder."""

_ROUND = 0.1
"""Largest root mean square distance from the sphere, as a share of its radius."""


@dataclass(frozen=True, eq=False)
class Ball:
    """A sphere found on a surface.

    Attributes:
        centre: (3,) mm.
        radius_mm: radius.
        share: share of all directions from its centre in which the surface lies on it.
    """

    centre: NDArray[np.float64]
    radius_mm: float
    share: float


@dataclass(frozen=True)
class BallSearch:
    """Requirements for a sphere.

    Attributes:
        radii_mm: smallest and largest radius.
        share: share of directions that must be covered.
        tolerance_mm: largest distance of a surface vertex from the sphere.
        hollow: True for a socket, whose surface faces the centre; False for a ball.
    """

    radii_mm: tuple[float, float]
    share: float
    tolerance_mm: float
    hollow: bool = False


def fit_ball(points: NDArray[np.float64], normals: NDArray[np.float64], search: BallSearch) -> Ball | str:
    """Find the sphere that most of a surface lies on; return the reason where there is none.

    Args:
        points: vertices, (n, 3) mm.
        normals: outward unit normals, (n, 3).
        search: requirements for the sphere.
    """
    low, high = search.radii_mm
    none = f"no {'socket' if search.hollow else 'sphere'} of {low:g} to {high:g} mm radius fits its surface"
    random = np.random.default_rng(0)
    if len(points) < 50:
        return none
    if len(points) > _POINTS:
        kept = random.choice(len(points), _POINTS, replace=False)
        points, normals = points[kept], normals[kept]
    best: Ball | str = none
    most = 0
    for centre, radius in _candidates(points, normals, search, random):
        made, count = _fitted(points, normals, centre, radius, search)
        if isinstance(made, Ball) and count > most:
            best, most = made, count
    return best


def _fitted(
    points: NDArray[np.float64],
    normals: NDArray[np.float64],
    centre: NDArray[np.float64],
    radius: float,
    search: BallSearch,
) -> tuple[Ball | None, int]:
    """Refine a sphere on the points near it; return it if it meets the requirements, with the number of points on it."""
    on = np.zeros(len(points), bool)
    for _ in range(8):
        on = _lies_on(points, normals, centre[None], np.array([radius]), search)[0]
        if on.sum() < 20:
            return None, 0
        centre, radius = _through(points[on])
    away = np.linalg.norm(points[on] - centre, axis=1) - radius
    share, (low, high) = _covered(points[on] - centre), search.radii_mm
    if not low <= radius <= high or np.sqrt((away**2).mean()) > _ROUND * radius or share < search.share:
        return None, 0
    return Ball(centre, float(radius), share), int(on.sum())


def _candidates(
    points: NDArray[np.float64], normals: NDArray[np.float64], search: BallSearch, random: np.random.Generator
) -> list[tuple[NDArray[np.float64], float]]:
    """Return the spheres with the most points, of many through two points with the centre on the normal of the first."""
    first = np.repeat(random.integers(len(points), size=_TRIALS), _SECONDS)
    way = points[random.integers(len(points), size=len(first))] - points[first]
    across = (way * normals[first]).sum(1)
    steps = (way**2).sum(1) / (2 * np.where(np.abs(across) > 1e-6, across, np.inf))  # along the normal to the centre
    radii = np.abs(steps)
    fit = (radii >= search.radii_mm[0]) & (radii <= search.radii_mm[1]) & ((steps > 0) == search.hollow)
    if not fit.any():
        return []
    centres, radii = points[first[fit]] + steps[fit, None] * normals[first[fit]], radii[fit]
    pieces = max(1, len(centres) // 100)
    counts = np.concatenate([
        _lies_on(points, normals, some, sizes, search).sum(1)
        for some, sizes in zip(np.array_split(centres, pieces), np.array_split(radii, pieces), strict=True)
    ])  # fmt: skip
    return [(centres[n], float(radii[n])) for n in np.argsort(-counts, kind="stable")[:_REFINED]]


def _lies_on(
    points: NDArray[np.float64],
    normals: NDArray[np.float64],
    centres: NDArray[np.float64],
    radii: NDArray[np.float64],
    search: BallSearch,
) -> NDArray[np.bool_]:
    """Return a mask (sphere, point) of the points near a sphere and with the right orientation."""
    away = points[None] - centres[:, None]
    distance = np.linalg.norm(away, axis=2)
    facing = (away * normals[None]).sum(2) / np.maximum(distance, 1e-9) * (-1 if search.hollow else 1)
    near = np.minimum(search.tolerance_mm, _THIN * radii)[:, None]
    found: NDArray[np.bool_] = (np.abs(distance - radii[:, None]) < near) & (facing > _FACING)
    return found


def _through(points: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Fit a sphere by least squares: |p|^2 = 2 p c + (r^2 - |c|^2)."""
    middle = points.mean(0)
    moved = points - middle
    found = np.linalg.lstsq(np.column_stack([2 * moved, np.ones(len(moved))]), (moved**2).sum(1), rcond=None)[0]
    centre = found[:3]
    return centre + middle, float(np.sqrt(max(found[3] + centre @ centre, 0.0)))


def _covered(away: NDArray[np.float64]) -> float:
    """Return the share of 400 evenly distributed directions (a golden spiral) that have a point within 10 degrees."""
    number = np.arange(400) + 0.5
    z, turn = 1 - number / 200, np.pi * (1 + 5**0.5) * number
    even = np.column_stack([np.sqrt(1 - z**2) * np.cos(turn), np.sqrt(1 - z**2) * np.sin(turn), z])
    directions = away / np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-9)
    return float(((even @ directions.T).max(1) > _NEAR_COSINE).mean())
