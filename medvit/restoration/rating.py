"""Rate a restoration by what it changed."""

from __future__ import annotations

from typing import Any

from medvit.bundles import Calibration
from medvit.restoration.change import Change

__all__ = ["judge_change"]

_BIAS_HU = (1.0, 5.0)
_BIAS_NOISE = (0.1, 0.5)
"""Bias worth a look, and bias that spoils measurements: in HU, or in parts of the noise where no unit is stated."""

_MOST_NOISE_HU, _OF_NOISE = 20.0, 0.1
"""Beyond so much noise taken out of soft tissue, a shift of 1 HU cannot be seen, since the source itself is off where few photons
arrived: on the eight validation heads of ct_denoise_restore_rwkv and a chest the shift was found within 0.6 HU at up to 11 HU,
and only within 1.7 HU and more from 32 HU on (10 and 25 % of the dose). A shift of less than a tenth of that noise is not poor."""

_SOFT_EDGES, _ALL_EDGES = 0.75, 0.9
"""Edges that keep less than this share of their strength are worth a look: those of soft tissue, which noise makes look
steeper than they are, and all, among which skin and bone decide."""


_SHARPER = 1.5
"""How much more a local deviation may be after a restoration that adds detail: more than that is not the detail of a head."""


def judge_change(change: Change, calibration: Calibration | None = None, upsampled: bool = False) -> dict[str, Any]:
    """``{"rating", "reasons"}``: "poor" if the noise grew or values moved by much; "check" if values moved, edges were
    blurred or nothing could be measured; otherwise "good".

    Args:
        change: what was measured.
        calibration: of the weights that ran, which may state how far values move before they are wrong.
        upsampled: whether the restoration adds detail to an interpolated image. What is measured as noise then grows with it:
            only a growth beyond half of it is poor, and any loss of edges is worth a look.
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
