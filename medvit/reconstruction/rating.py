"""Rating of shapes reconstructed from radiographs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medvit.labels import Label
from medvit.reconstruction.statistics import ShapeMeasures
from medvit.reports import UncertaintySignals, judge_volume

__all__ = ["RatedViews", "judge_shapes"]


_AGREES = 0.25
"""Gradient correlation below which outlines of result and view count as different. On the 8 validation CTs of the
shipped bundle, true labels have 0.33 to 0.56 (AP) and 0.27 to 0.47 (lateral), another patient's labels 0.05 to 0.29 and
0.02 to 0.22 (benchmarks/view_agreement.py)."""


_COVERED = 0.98
"""Share of the network's field of view that a view should show."""


@dataclass(frozen=True)
class RatedViews:
    """Agreement of a result with its radiographs, by slot.

    Attributes:
        consistency: gradient correlation between the view and the result projected again.
        covered: share of the network's field of view that the view shows.
    """

    consistency: Mapping[str, float]
    covered: Mapping[str, float]


def judge_shapes(
    shapes: Sequence[ShapeMeasures],
    labels: Sequence[Label],
    views: RatedViews,
    signals: UncertaintySignals,
) -> dict[str, Any]:
    """Rate reconstructed shapes: ``{"rating": "good" | "check" | "poor", "reasons": [...]}``.

    "poor": a body is missing or has an impossible size. "check": its size is unusual, the field's edge cuts it, a view
    shows other outlines or less than the field, or the network is uncertain. "good": otherwise.
    """
    poor: list[str] = []
    check: list[str] = []
    for shape, label in zip(shapes, labels, strict=True):
        if not shape.voxels:
            poor.append(f"{label.name} was not found")
            continue
        if shape.touches_border:
            check.append(f"{label.name} is cut by the edge of the field")
        rating, reason = judge_volume(label, shape.volume_ml)
        if reason:
            (poor if rating == "poor" else check).append(reason)
    for slot, value in views.consistency.items():
        if value < _AGREES:
            check.append(f"the result projected again agrees with the {slot} view by {value:.2f} only")
    for slot, share in views.covered.items():
        if share < _COVERED:
            check.append(f"the {slot} view shows {100 * share:.0f} % of the field")
    check += signals.reasons()
    rating = "poor" if poor else "check" if check else "good"
    return {"rating": rating, "reasons": poor + check}
