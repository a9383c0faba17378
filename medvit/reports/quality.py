"""One word on whether the anatomy found is plausible."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medvit.bundles import Label
from medvit.reports.statistics import Measures

__all__ = ["judge"]

_ABSURD = (0.2, 3.0)
"""Below this share of the smallest, or above this multiple of the largest volume seen in training: absurd."""

_UNUSUAL = (0.6, 1.5)
"""The same for a volume worth a look."""


def judge(measures: Sequence[Measures], labels: Sequence[Label]) -> dict[str, Any]:
    """``{"word", "reasons"}``: "poor" if an organ is missing, absurdly sized or on the other side; "check" if its size
    is unusual or it is cut by a volume's edge; otherwise "good"."""
    poor: list[str] = []
    check: list[str] = []
    for found, label in zip(measures, labels, strict=True):
        if not found.voxels:
            poor.append(f"{label.name} was not found")
        if found.touches_border and found.volume_ml is not None:  # in a picture the edge cuts objects as a rule
            check.append(f"{label.name} is cut by the edge of the image")
        if not found.voxels or found.volume_ml is None or label.volume_ml is None:
            continue
        low, high = label.volume_ml
        if not _ABSURD[0] * low <= found.volume_ml <= _ABSURD[1] * high:
            poor.append(
                f"{label.name} measures {found.volume_ml:g} mL, where {low:g} to {high:g} mL were seen in training"
            )
        elif not _UNUSUAL[0] * low <= found.volume_ml <= _UNUSUAL[1] * high:
            check.append(
                f"{label.name} measures {found.volume_ml:g} mL, where {low:g} to {high:g} mL were seen in training"
            )
    poor += _sides(measures, labels)
    word = "poor" if poor else "check" if check else "good"
    return {"word": word, "reasons": poor + check}


def _sides(measures: Sequence[Measures], labels: Sequence[Label]) -> list[str]:
    """A right organ must lie to the right (larger x in RAS+) of the left one of the same kind."""
    place: dict[tuple[str, str], tuple[str, float]] = {}
    for found, label in zip(measures, labels, strict=True):
        if label.laterality is not None and found.centroid_mm is not None:
            place[(label.type.value, label.laterality.meaning)] = (label.name, found.centroid_mm[0])
    reasons = []
    for (kind, side), (name, x) in place.items():
        other = place.get((kind, "Left"))
        if side == "Right" and other is not None and x <= other[1]:
            reasons.append(f"{name} lies to the left of {other[0]}")
    return reasons
