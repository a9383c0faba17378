"""What a bundle answered to cases whose truth is known, and what could be seen of it without knowing the truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from medvit.bundles import Calibration

__all__ = ["LabelOutcome", "QualitySignal", "ScoredCases"]

QualitySignal = Literal["entropy", "agreement", "moved"]
"""As in ``medvit.bundles.metadata.Calibration.limits``."""


@dataclass(frozen=True)
class LabelOutcome:
    """What can be right or wrong on its own: a label of a case, or a restored image.

    Attributes:
        case: of which it is.
        score: how right it is, as people read it.
        bad: whether that is too little.
        signals: what could be seen without knowing the truth.
    """

    case: str
    score: float
    bad: bool
    signals: dict[QualitySignal, float]


@dataclass(frozen=True, kw_only=True)
class ScoredCases:
    """The answers of a bundle to cases whose truth is known, and how each case would be called.

    Attributes:
        bad: what counts as bad, in words.
        score: what the scores are, in words.
        answers: all of them.
        ratings: of each case, what rates it by a calibration; by what the run was asked for.
        real: whether the scans are of real patients; noise or radiographs computed from real scans count as real.
        scans: how many scans the answers are of; None where each case is one.
    """

    bad: str
    score: str
    answers: tuple[LabelOutcome, ...]
    ratings: dict[str, dict[str, Callable[[Calibration], str]]]
    real: bool = True
    scans: int | None = None
