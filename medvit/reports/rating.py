"""Rate labels by plausible anatomy and the network's own doubts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from medvit.bundles import Calibration
from medvit.labels import Label, LabelMeasures

__all__ = ["RATINGS", "RATING_RULES", "UncertaintySignals", "judge_volume", "rate_labels"]

RATINGS = ("good", "uncalibrated", "check", "poor")
"""All ratings; a later one wins over an earlier one."""

RATING_RULES = 2
"""Number of the rules that results are rated by; a batch runs results of other rules again. 2: with "uncalibrated"."""

_ABSURD = (0.2, 3.0)
"""Below this share of the smallest, or above this multiple of the largest volume seen in training: absurd."""

_UNUSUAL = (0.6, 1.5)
"""The same for a volume worth a look."""

_AGREES = 0.7
"""Dice between the answers for an image and for its mirror image below which a label is worth a look, where no calibration
says another."""


@dataclass(frozen=True)
class UncertaintySignals:
    """What a network said of its own labels, by their names.

    Attributes:
        entropy: bits a voxel; judged only where a calibration says what it means.
        agreement: Dice with the mirror image's answer, or None where there was no second run.
        calibration: of the weights that ran, or None.
    """

    entropy: Mapping[str, float] = field(default_factory=dict)
    agreement: Mapping[str, float] | None = None
    calibration: Calibration | None = None

    @property
    def limits(self) -> dict[str, float]:
        """From which signal on a label is worth a look; signals that told nothing are left out."""
        return {"agreement": _AGREES} if self.calibration is None else dict(self.calibration.limits)  # type: ignore[arg-type]

    def reasons(self) -> list[str]:
        """Labels that the network itself is in doubt about."""
        limits, found = self.limits, []
        known = self.calibration
        if known is not None and 2 * known.spoilt > known.cases:  # no signal makes a good answer likely then
            found.append(f"of {known.cases} cases whose answer is known, {known.spoilt} came out bad ({known.bad})")
        for name, bits in self.entropy.items():
            if bits > limits.get("entropy", math.inf):
                found.append(
                    f"the network is in doubt about {name} ({bits:.3f} bits a voxel, where up to {limits['entropy']:.3f} is usual)"
                )
        for name, value in (self.agreement or {}).items():
            if value < limits.get("agreement", -math.inf):
                found.append(f"{name} and what the mirror image gave overlap by {value:.2f} only")
        return found


def rate_labels(
    measures: Sequence[LabelMeasures], labels: Sequence[Label], signals: UncertaintySignals | None = None
) -> dict[str, Any]:
    """``{"rating", "reasons"}``: "poor" if an organ is missing, absurdly sized or on the other side; "check" if its size
    is unusual, it is cut by a volume's edge, or the network is in doubt about it; otherwise "good"."""
    poor: list[str] = []
    check: list[str] = []
    for found, label in zip(measures, labels, strict=True):
        if not found.voxels:
            poor.append(f"{label.name} was not found")
        if found.touches_border and found.volume_ml is not None:  # in a picture the edge cuts objects as a rule
            check.append(f"{label.name} is cut by the edge of the image")
        if found.voxels and found.volume_ml is not None:
            rating, reason = judge_volume(label, found.volume_ml)
            if reason:
                (poor if rating == "poor" else check).append(reason)
    check += signals.reasons() if signals is not None else []
    poor += _sides(measures, labels)
    rating = "poor" if poor else "check" if check else "good"
    return {"rating": rating, "reasons": poor + check}


def judge_volume(label: Label, volume_ml: float) -> tuple[str, str]:
    """ "poor" or "check" and the reason where a volume is absurd or unusual beside those seen in training, else ("good", "")."""
    if label.volume_ml is None:
        return "good", ""
    low, high = label.volume_ml
    reason = f"{label.name} measures {volume_ml:g} mL, where {low:g} to {high:g} mL were seen in training"
    for rating, bounds in (("poor", _ABSURD), ("check", _UNUSUAL)):
        if not bounds[0] * low <= volume_ml <= bounds[1] * high:
            return rating, reason
    return "good", ""


def _sides(measures: Sequence[LabelMeasures], labels: Sequence[Label]) -> list[str]:
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
