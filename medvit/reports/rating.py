"""Rating of labels by anatomical plausibility and by the network's uncertainty."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from medvit.bundles import Calibration
from medvit.labels import Label, LabelMeasures

__all__ = ["RATINGS", "RATING_RULES", "UncertaintySignals", "judge_volume", "rate_labels"]

RATINGS = ("good", "uncalibrated", "check", "poor")
"""All ratings; a later one takes precedence over an earlier one."""

RATING_RULES = 2
"""Version of the rating rules; a batch repeats results that were rated by another version. Version 2 added
"uncalibrated".
"""

_ABSURD = (0.2, 3.0)
"""Factors for an absurd volume: below this share of the smallest, or above this multiple of the largest volume in
training.
"""

_UNUSUAL = (0.6, 1.5)
"""Factors for an unusual volume, of the smallest and largest volume in training."""

_AGREES = 0.7
"""Default Dice between the labels of an image and of its mirror image below which a label is rated "check"."""


@dataclass(frozen=True)
class UncertaintySignals:
    """Uncertainty of a network about its own labels, by label name.

    Attributes:
        entropy: mean entropy in bits per voxel; used only where a calibration sets a limit.
        agreement: Dice with the labels of the mirror image; None without a second run.
        calibration: calibration of the weights that ran, or None.

    Examples:
        >>> from medvit.reports import UncertaintySignals
        >>> UncertaintySignals(agreement={"liver": 0.52, "spleen": 0.93}).reasons()
        ['liver and what the mirror image gave overlap by 0.52 only']
    """

    entropy: Mapping[str, float] = field(default_factory=dict)
    agreement: Mapping[str, float] | None = None
    calibration: Calibration | None = None

    @property
    def limits(self) -> dict[str, float]:
        """Limit of each signal beyond which a label is rated "check"; signals without a limit are left out."""
        return {"agreement": _AGREES} if self.calibration is None else dict(self.calibration.limits)  # type: ignore[arg-type]

    def reasons(self) -> list[str]:
        """Describe the labels whose uncertainty exceeds a limit."""
        limits, found = self.limits, []
        known = self.calibration
        if known is not None and 2 * known.spoilt > known.cases:  # then no signal makes a good result likely
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
    """Rate the labels of an image.

    "poor": an organ is missing, absurdly sized or on the wrong side. "check": its size is unusual, the image edge cuts
    it, or the network is uncertain about it. Otherwise "good". A label that an image may lack (``expected``) and that was
    not found is no finding; a result without any label is rated "check".

    Args:
        measures: measurements of each label.
        labels: the labels, in the same order.
        signals: uncertainty of the network.

    Returns:
        ``{"rating": ..., "reasons": [...]}``.

    Examples:
        >>> import numpy as np
        >>> from medvit.io import Scan
        >>> from medvit.io.labels import make_label
        >>> from medvit.reports import measure, rate_labels
        >>> scan = Scan(array=np.zeros((1, 8, 8, 8), np.float32), affine=np.eye(4), kind="array")
        >>> labels = [make_label(1, "Liver")]
        >>> rate_labels(measure(np.zeros((8, 8, 8), np.uint8), scan, labels), labels)
        {'rating': 'poor', 'reasons': ['liver was not found']}
    """
    poor: list[str] = []
    check: list[str] = []
    for found, label in zip(measures, labels, strict=True):
        if not found.voxels and label.expected != "optional":
            (poor if label.expected == "always" else check).append(f"{label.name} was not found")
        if found.touches_border and found.volume_ml is not None:  # edges of pictures usually cut objects
            check.append(f"{label.name} is cut by the edge of the image")
        if found.voxels and found.volume_ml is not None:
            rating, reason = judge_volume(label, found.volume_ml)
            if reason:
                (poor if rating == "poor" else check).append(reason)
    check += signals.reasons() if signals is not None else []
    poor += _sides(measures, labels)
    if measures and not (poor or any(found.voxels for found in measures)):
        check.append("no label was found")
    rating = "poor" if poor else "check" if check else "good"
    return {"rating": rating, "reasons": poor + check}


def judge_volume(label: Label, volume_ml: float) -> tuple[str, str]:
    """Rate a label's volume by the volumes in training.

    Args:
        label: the label, with its smallest and largest volume in training.
        volume_ml: the measured volume.

    Returns:
        "poor" for an absurd or "check" for an unusual volume, with the reason; else ("good", "").

    Examples:
        >>> from medvit.io.labels import make_label
        >>> from medvit.reports import judge_volume
        >>> liver = make_label(1, "Liver").model_copy(update={"volume_ml": (900.0, 2100.0)})
        >>> judge_volume(liver, 1500.0)
        ('good', '')
        >>> judge_volume(liver, 100.0)
        ('poor', 'liver measures 100 mL, where 900 to 2100 mL were seen in training')
    """
    if label.volume_ml is None:
        return "good", ""
    low, high = label.volume_ml
    reason = f"{label.name} measures {volume_ml:g} mL, where {low:g} to {high:g} mL were seen in training"
    for rating, bounds in (("poor", _ABSURD), ("check", _UNUSUAL)):
        if not bounds[0] * low <= volume_ml <= bounds[1] * high:
            return rating, reason
    return "good", ""


def _sides(measures: Sequence[LabelMeasures], labels: Sequence[Label]) -> list[str]:
    """Describe right organs that do not lie to the right (larger x in RAS+) of the left organ of the same kind."""
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
