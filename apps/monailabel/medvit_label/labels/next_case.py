"""Choice of the case to label next: the first, a random one, or the one with the most uncertain answer of a model."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import Any

from medvit_label.errors import UnknownError
from medvit_label.images.source import LabelImage
from medvit_label.labels.activity import ActivityRepository
from medvit_label.labels.predictions import PredictionRepository

__all__ = ["STRATEGIES", "Choice", "choose", "rating_of", "uncertainty"]

STRATEGIES = {
    "first": "The first case, by name, that has no final label.",
    "random": "Any case without a final label.",
    "quality": "The case whose predicted labels are most uncertain: implausible anatomy, or another answer for the mirror image.",
}
"""Names and descriptions of the strategies."""

_RESERVED_S = 900.0
"""Seconds for which a case assigned to one annotator is not assigned to another, if there are other cases."""


@dataclass(frozen=True)
class Choice:
    """Case to label next, and the reason in words."""

    image: LabelImage
    reason: str


def choose(
    strategy: str,
    params: dict[str, Any],
    waiting: list[LabelImage],
    activity: ActivityRepository,
    predictions: PredictionRepository,
) -> Choice | None:
    """Choose the case to label next.

    Args:
        strategy: one of ``STRATEGIES``.
        params: request's params; ``model`` limits the strategy "quality" to the answers of one model.
        waiting: images without a final label.
        activity: recent assignments, so that two annotators do not get the same case.
        predictions: the models' answers with their quality.

    Returns:
        The choice; None if all images have a final label.

    Raises:
        UnknownError: there is no such strategy.
    """
    if strategy not in STRATEGIES:
        raise UnknownError(
            f"no strategy {strategy[:40]!r}", f"there are: {', '.join(STRATEGIES)}", "Ask for one of these."
        )
    taken = activity.assigned_since(time.time() - _RESERVED_S)
    free = [image for image in waiting if image.id not in taken] or waiting
    if not free:
        return None
    if strategy == "first":
        return Choice(free[0], "It is the first without a final label.")
    if strategy == "random":
        return Choice(random.choice(free), "It was drawn at random from those without a final label.")
    return _by_quality(free, predictions, params.get("model"))


def _by_quality(free: list[LabelImage], predictions: PredictionRepository, model: Any) -> Choice:
    known = {row.image: row.content for row in predictions.qualities() if not model or row.model == model}
    scored = [(*uncertainty(known[image.id]), image) for image in free if image.id in known]
    unseen = [image for image in free if image.id not in known]
    worst = max(scored, key=lambda item: item[0], default=None)
    if worst is not None and worst[0] > 0:
        return Choice(worst[2], worst[1])
    if unseen:
        return Choice(
            random.choice(unseen), "No model has been run on it yet; run one on all cases to have them ranked."
        )
    return Choice(free[0], "The model's answers on all remaining cases look plausible; this is the first of them.")


def uncertainty(judged: dict[str, Any]) -> tuple[float, str]:
    """Return the uncertainty of an answer, from 0 to 3, and the reason.

    Implausible anatomy weighs 2 ("poor") or 1 ("check"); disagreement with the mirror image's answer, one minus the lowest
    Dice, is added if it was measured.

    Args:
        judged: ``{"quality": Result.quality(), "agreement": Result.agreement()}``.
    """
    quality, agreement = judged["quality"], judged.get("agreement") or {}
    score, reasons = (
        {"poor": 2.0, "check": 1.0}.get(rating_of(judged), 0.0),
        [str(r) for r in quality.get("reasons", [])[:2]],
    )
    if agreement:
        name, lowest = min(agreement.items(), key=lambda item: item[1])
        score += 1 - float(lowest)
        reasons.append(f"for {name} the image and its mirror image agree to Dice {lowest:.2f} only")
    if not reasons:
        return score, "The model's answer looks plausible."
    found = "is uncertain" if score else "looks plausible, but the model is uncalibrated on this image"
    return score, f"The model's answer {found}: {'; '.join(reasons)}."


def rating_of(judged: dict[str, Any]) -> str:
    """Return the rating of a stored answer; earlier versions stored it under "word"."""
    quality = judged["quality"]
    return str(quality["rating"] if "rating" in quality else quality["word"])
