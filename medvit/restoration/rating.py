"""Rating of a restoration by its measured change."""

from __future__ import annotations

from typing import Any

from medvit.bundles import Calibration
from medvit.restoration.change import Change

__all__ = ["judge_change"]

_BIAS_HU = (1.0, 5.0)
_BIAS_NOISE = (0.1, 0.5)
"""Shifts that need a check, and shifts that make measurements wrong: in HU, or as a share of the noise if no unit is
stated."""

_MOST_NOISE_HU, _OF_NOISE = 20.0, 0.1
"""Limits for removed noise. Above 20 HU of noise removed from soft tissue a shift of 1 HU cannot be measured, since the
source itself is off where few photons arrived: on the eight validation heads of ct_denoise_restore_rwkv and a chest,
the measured shift was accurate to 0.6 HU for up to 11 HU of noise, and only to 1.7 HU or worse from 32 HU on (10 and 25
% of the dose). A shift below a tenth of the removed noise is not rated poor."""

_SOFT_EDGES, _ALL_EDGES = 0.75, 0.9
"""Shares of edge strength below which a result needs a check: of soft-tissue edges, which noise makes look steeper than
they are, and of all edges, among which skin and bone dominate."""


_SHARPER = 1.5
"""Largest allowed growth of the local deviation in a restoration that adds detail; more is not anatomical detail."""


def judge_change(change: Change, calibration: Calibration | None = None, upsampled: bool = False) -> dict[str, Any]:
    """Rate a restoration by its measured change.

    "poor": the noise grew or values shifted by much. "check": values shifted, edges were blurred, or nothing could be
    measured. "good": otherwise.

    Args:
        change: the measured change.
        calibration: calibration of the weights that ran, which may state a smaller limit for shifts.
        upsampled: True if the restoration adds detail to an interpolated image. The measured noise then grows with the
            detail: only a growth by more than half is poor, and any loss of edge strength needs a check.

    Returns:
        ``{"rating": "good" | "check" | "poor", "reasons": [...]}``.

    Examples:
        >>> import numpy as np
        >>> from medvit.restoration import judge_change, measure_change
        >>> image = np.random.default_rng(0).normal(50, 10, (64, 64, 2)).astype(np.float32)
        >>> judge_change(measure_change(image, image + 7, (1.0, 1.0), "HU"))["rating"]
        'poor'
    """
    poor: list[str] = []
    check: list[str] = []
    before, after, bias = change.noise_before, change.noise_after, change.mean_difference
    if before is None or after is None:
        check.append("too little tissue was found to measure noise in")
    elif after > (_SHARPER if upsampled else 1.02) * before:
        poor.append(f"noise grew from {before:g} to {after:g} {change.unit}")
    look, spoilt = _BIAS_HU if change.unit == "HU" else tuple(part * (before or 0.0) for part in _BIAS_NOISE)
    if calibration is not None and "moved" in calibration.limits:
        look = min(look, calibration.limits["moved"])
    removed = change.noise_removed if change.unit == "HU" else None
    spoilt = max(spoilt, _OF_NOISE * (removed or 0.0))
    if bias is not None and abs(bias) > look:
        words = f"the mean of soft tissue moved by {bias:+g} {change.unit}"
        (poor if abs(bias) > spoilt else check).append(words)
    if removed is not None and removed > _MOST_NOISE_HU:
        check.append(
            f"noise of {removed:.0f} HU was taken out of soft tissue; beside so much a shift of {look:g} HU cannot be seen "
            f"({bias:+g} HU was measured)"
        )
    for kept, least, where in (
        (change.edge_strength_soft_tissue, _SOFT_EDGES, "edges of soft tissue"),
        (change.edge_strength, _ALL_EDGES, "edges"),
    ):
        if kept is not None and kept < (1 if upsampled else least):
            check.append(f"{where} kept {100 * kept:.0f} % of their strength")
    rating = "poor" if poor else "check" if check else "good"
    return {"rating": rating, "reasons": poor + check}
