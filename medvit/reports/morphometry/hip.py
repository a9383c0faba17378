"""Measures of a hip bone: greatest height and acetabular radius.

The height is measure 1 of the hip bone in R. Martin, Lehrbuch der Anthropologie. The acetabulum is the sphere fitted to
its socket, as in templating for hip replacement.
"""

from __future__ import annotations

from medvit.reports.diameter import longest_diameter
from medvit.reports.morphometry.body import Body
from medvit.reports.morphometry.measured import StructureMeasures
from medvit.reports.morphometry.spheres import Ball, BallSearch, fit_ball

__all__ = ["measure_hip"]

_SOCKET = (10.0, 38.0)
"""Smallest and largest radius of sockets in mm, children's included."""


def measure_hip(body: Body) -> StructureMeasures:
    """Measure height and acetabular radius."""
    found = StructureMeasures("hip")
    whole = longest_diameter(body.mask, body.affine[:3, :3])
    found.put("height_mm", "the bone reaches the edge of the field; part of it may be missing" if body.cut else whole)
    socket = _socket(body)
    found.put("acetabular_radius_mm", socket if isinstance(socket, str) else socket.radius_mm)
    return found


def _socket(body: Body) -> Ball | str:
    tolerance = max(0.6 * body.side_mm, 0.8)
    found = fit_ball(body.surface.vertices, body.normals, BallSearch(_SOCKET, 0.2, tolerance, hollow=True))
    if not isinstance(found, str) and body.inside(found.centre[None])[0]:
        return "what is round in its surface is filled with bone"
    return found
