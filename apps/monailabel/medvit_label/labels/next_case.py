"""Which case to label next, and why: first, random, or the one where the model's answer deserves it least to be trusted."""

from __future__ import annotations

import json
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medvit_label.errors import UnknownError
from medvit_label.images.local import Image

if TYPE_CHECKING:
    from medvit_label.project import Project

__all__ = ["STRATEGIES", "Choice", "choose", "rating_of", "uncertainty"]

STRATEGIES = {
    "first": "The first case, by name, that has no final label.",
    "random": "Any case without a final label.",
    "quality": "The case whose predicted labels look least trustworthy: implausible anatomy, or answers that differ in the mirror.",
}
"""Names and what they do."""

_RESTING_S = 900.0
"""Seconds for which a case given to one annotator is not given to another, while there are others."""


@dataclass(frozen=True)
class Choice:
    """The case to label next and the reason in words."""

    image: Image
    reason: str


def choose(service: Project, strategy: str, params: dict[str, Any]) -> Choice | None:
    """The next case; None when all have a final label.

    Raises:
        UnknownError: no such strategy.
    """
    if strategy not in STRATEGIES:
        raise UnknownError(
            f"Found no strategy {strategy[:40]!r}; there are: {', '.join(STRATEGIES)}. Ask for one of these."
        )
    waiting = service.unlabelled()
    taken = service.journal.assigned_since(time.time() - _RESTING_S)
    free = [image for image in waiting if image.id not in taken] or waiting
    if not free:
        return None
    if strategy == "first":
        return Choice(free[0], "It is the first without a final label.")
    if strategy == "random":
        return Choice(random.choice(free), "It was drawn at random from those without a final label.")
    return _by_quality(service, free, params.get("model"))


def _by_quality(service: Project, free: list[Image], model: Any) -> Choice:
    rows = service.journal.rows("SELECT * FROM quality")
    judged = {row["image"]: json.loads(row["content"]) for row in rows if not model or row["model"] == model}
    scored = [(*uncertainty(judged[image.id]), image) for image in free if image.id in judged]
    unseen = [image for image in free if image.id not in judged]
    worst = max(scored, key=lambda item: item[0], default=None)
    if worst is not None and worst[0] > 0:
        return Choice(worst[2], worst[1])
    if unseen:
        return Choice(
            random.choice(unseen), "No model has been run on it yet; run one on all cases to have them ranked."
        )
    return Choice(free[0], "The model's answers on all remaining cases look plausible; this is the first of them.")


def uncertainty(judged: dict[str, Any]) -> tuple[float, str]:
    """How little an answer is to be trusted, 0 to 3, and why.

    Implausible anatomy weighs 2 ("poor") or 1 ("check"); disagreement with the mirror image's answer, one minus the lowest
    Dice, is added where it was measured.

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
    found = "is in doubt" if score else "looks plausible, but the model is uncalibrated on this image"
    return score, f"The model's answer {found}: {'; '.join(reasons)}."


def rating_of(judged: dict[str, Any]) -> str:
    """Return the rating of a kept answer; those that an earlier version kept call it "word"."""
    quality = judged["quality"]
    return str(quality["rating"] if "rating" in quality else quality["word"])
