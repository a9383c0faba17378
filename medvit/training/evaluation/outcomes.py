"""Outcomes of a bundle on cases with known truth, with the quality signals of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from medvit.bundles import Calibration

__all__ = ["LabelOutcome", "QualitySignal", "ScoredCases"]

QualitySignal = Literal["entropy", "agreement", "moved"]
"""Names of the quality signals, as in ``medvit.bundles.metadata.Calibration.limits``."""


@dataclass(frozen=True)
class LabelOutcome:
    """One scored outcome: a label of a case, or a restored image.

    Attributes:
        case: name of the case.
        score: the score, as people read it.
        bad: True if the score is too low.
        signals: quality signals, computed without the truth.
    """

    case: str
    score: float
    bad: bool
    signals: dict[QualitySignal, float]


@dataclass(frozen=True, kw_only=True)
class ScoredCases:
    """Outcomes of a bundle on cases with known truth, and the ratings of the cases.

    Attributes:
        bad: definition of a bad outcome, in words.
        score: name of the score.
        answers: all outcomes.
        ratings: for each kind of run, a function per case that rates it by a calibration.
        real: True for scans of real patients; noise or radiographs computed from real scans count as real.
        scans: number of scans behind the outcomes; None if each case is one scan.
    """

    bad: str
    score: str
    answers: tuple[LabelOutcome, ...]
    ratings: dict[str, dict[str, Callable[[Calibration], str]]]
    real: bool = True
    scans: int | None = None
