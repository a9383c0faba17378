"""Calibration of a bundle's quality signals on cases with known labels, with a measure of their reliability.

A signal's limit is where it separates bad outcomes from the others best: the largest difference between the share of
bad outcomes that it flags and the share of others (W. J. Youden, Cancer 3(1), 1950). It is used if, in leave-one-out
over all cases, that difference is at least one half. If no outcome is bad, the limit is the most uncertain value seen,
so that only larger values are flagged.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import mean
from typing import Any, get_args

import numpy as np

from medvit.atomic_write import replace_file
from medvit.bundles import Bundle, Calibration, Validation
from medvit.errors import BundleError
from medvit.inference import load_model
from medvit.io import open_source
from medvit.reports import imaged_anatomy
from medvit.training.data import DataList, read_entries
from medvit.training.evaluation.evaluation_set import EvaluationSet, Report
from medvit.training.evaluation.outcomes import LabelOutcome, QualitySignal, ScoredCases
from medvit.training.evaluation.score_report import QUALITY, place_for

__all__ = ["CalibrationReport", "calibrate", "limit_of", "record_calibration"]

_SEPARATES = 0.5
"""Smallest difference between the flagged shares of bad and of other outcomes for a signal to be used."""

_FEWEST_OTHERS = 3
"""Smallest number of outcomes that are not bad for a limit to be meaningful."""


@dataclass(frozen=True)
class _Measured:
    """A signal, its limit, and for each outcome whether it is bad and whether a limit from the other cases flags it."""

    name: QualitySignal
    limit: float | None
    left_out: tuple[tuple[bool, bool], ...]

    @property
    def used(self) -> bool:
        """True if the signal separates bad outcomes in leave-one-out, or if there are no bad outcomes."""
        bad, others = ([flagged for is_bad, flagged in self.left_out if is_bad is kind] for kind in (True, False))
        if self.limit is None or len(others) < _FEWEST_OTHERS:
            return False
        return not bad or mean(bad) - mean(others) >= _SEPARATES


@dataclass(frozen=True)
class CalibrationReport:
    """A calibration, its table and its validation cases."""

    calibration: Calibration
    table: str
    validation: Validation


def calibrate(part: EvaluationSet, evaluation: Any, say: Report, device: str = "auto") -> CalibrationReport:
    """Run a bundle on the given part of a data list and compute the limits of its quality signals.

    Raises:
        BundleError: the bundle is not trained, or its task has no signals. Other errors as for ``evaluate_bundle``.
    """
    part.bundle.require_trained()
    if not hasattr(evaluation, "answers"):
        raise BundleError(
            (
                f"{type(evaluation).__name__} in configs/evaluate.json of {part.bundle.name}, which gives no signals of "
                "quality"
            ),
            "name an evaluation that does",
        )
    judged: ScoredCases = evaluation.answers(part, load_model(part.bundle, device), say)
    cases = dict.fromkeys(answer.case for answer in judged.answers)
    spoilt = len({answer.case for answer in judged.answers if answer.bad})
    measured = _measured(judged)
    limits = {one.name: one.limit for one in measured if one.used and one.limit is not None}
    calibration = Calibration(
        weights_sha256=part.bundle.weights_sha256, cases=len(cases), spoilt=spoilt, bad=judged.bad, limits=limits
    )  # fmt: skip
    table = "\n".join([*_signal_rows(judged, measured), "", *_rating_rows(judged, calibration)])
    return CalibrationReport(calibration, table, _validation(part, judged))


def _validation(part: EvaluationSet, judged: ScoredCases) -> Validation:
    """Count the real and synthetic cases, average the Dice of the real ones and measure their field of view.

    Data lists do not state body parts, so those that the bundle states are kept.
    """
    bundle, facts = part.bundle, part.bundle.facts
    scans = judged.scans or len({answer.case for answer in judged.answers})
    scored = judged.real and facts.task != "restoration"
    return Validation(
        weights_sha256=bundle.weights_sha256,
        real_cases=scans if judged.real else 0,
        synthetic_cases=0 if judged.real else scans,
        mean_dice=round(mean(answer.score for answer in judged.answers), 4) if scored else None,
        body_parts=facts.validation.body_parts if facts.validation else (),
        field_of_view_mm=_field_of_view(part) if judged.real else None,
    )


def _field_of_view(part: EvaluationSet) -> tuple[tuple[float, float, float], tuple[float, float, float]] | None:
    """Measure the smallest and largest extent of a part's images; None for pictures and radiographs.

    A restoration network sees single slices, so its smallest head-foot extent is 0: a short stack is not another field
    of view.
    """
    facts = part.bundle.facts
    if facts.dimensions == 2:
        return None
    entries = read_entries(part.bundle, DataList(part.data, part.root, part.split), ("image",))
    extents = np.array([imaged_anatomy(open_source(entry["image"])).extent_mm for entry in entries]).round()
    low, high = extents.min(0), extents.max(0)
    head_foot = 0.0 if facts.task == "restoration" else float(low[2])
    return (float(low[0]), float(low[1]), head_foot), (float(high[0]), float(high[1]), float(high[2]))


def _measured(judged: ScoredCases) -> list[_Measured]:
    names = [name for name in get_args(QualitySignal) if any(name in answer.signals for answer in judged.answers)]
    return [_Measured(name, limit_of(name, judged.answers), _left_out(name, judged.answers)) for name in names]


def limit_of(signal: QualitySignal, answers: Sequence[LabelOutcome]) -> float | None:
    """Return the value of a signal that separates bad outcomes from the others best; None if it does not separate
    them."""
    known = [answer for answer in answers if signal in answer.signals]
    sign = -1.0 if signal == "agreement" else 1.0
    uncertainty = np.array([sign * answer.signals[signal] for answer in known])
    bad = np.array([answer.bad for answer in known])
    if not len(known) or bad.all():
        return None
    if not bad.any():
        return _rounded(signal, sign * float(uncertainty.max()))
    levels = np.unique(uncertainty)
    best, limit = -1.0, math.inf
    for low, high in pairwise(levels):
        over = uncertainty > (low + high) / 2
        parted = float(over[bad].mean() - over[~bad].mean())
        if parted >= best:  # of two equally good limits, take the one that flags less
            best, limit = parted, float(low + high) / 2
    return _rounded(signal, sign * limit) if best > 0 else None


def _rounded(signal: QualitySignal, limit: float) -> float:
    """Round to four digits away from the values seen, so that rounding flags nothing more."""
    whole = math.floor if signal == "agreement" else math.ceil
    return whole(limit * 1e4) / 1e4


def _flagged(signal: QualitySignal, answer: LabelOutcome, limit: float | None) -> bool:
    value = answer.signals.get(signal)
    if value is None or limit is None:
        return False
    return value < limit if signal == "agreement" else value > limit


def _signal_rows(judged: ScoredCases, measured: Sequence[_Measured]) -> list[str]:
    """Tabulate each signal's limit and the outcomes that it flags, also in leave-one-out."""
    bad = sum(answer.bad for answer in judged.answers)
    lines = [
        f"{len(judged.answers)} answers, {bad} bad: {judged.bad}.",
        "",
        "| signal | limit | bad flagged | others flagged | bad flagged, case left out | others flagged, case left out |",
        "|---|---|---|---|---|---|",
    ]
    for one in measured:
        hits = [(a.bad, _flagged(one.name, a, one.limit)) for a in judged.answers]
        words = f"{_UNITS[one.name]} {one.limit:g}" if one.limit is not None else "none"
        words = words if one.used else f"{words}; not used, it does not tell"
        counts = [_counts(rows, bad) for rows in (hits, one.left_out) for bad in (True, False)]
        lines.append(f"| {one.name} | {words} | {' | '.join(counts)} |")
    return lines


_UNITS: dict[QualitySignal, str] = {
    "entropy": "bits a voxel above",
    "agreement": "Dice with the mirror image below",
    "moved": "HU above",
}


def _counts(hits: Sequence[tuple[bool, bool]], bad: bool) -> str:
    among = [flagged for is_bad, flagged in hits if is_bad is bad]
    return f"{sum(among)} of {len(among)}"


def _left_out(signal: QualitySignal, answers: Sequence[LabelOutcome]) -> tuple[tuple[bool, bool], ...]:
    """Return for each outcome whether it is bad, and whether a limit from the other cases flags it."""
    found = []
    for case in dict.fromkeys(answer.case for answer in answers):
        limit = limit_of(signal, [answer for answer in answers if answer.case != case])
        found += [(a.bad, _flagged(signal, a, limit)) for a in answers if a.case == case]
    return tuple(found)


def _rating_rows(judged: ScoredCases, calibration: Calibration) -> list[str]:
    """Tabulate the number and scores of the cases with each rating."""
    lines = [
        f"| run | rating | cases | mean {judged.score} | worst answer | with a bad answer |",
        "|---|---|---|---|---|---|",
    ]
    by_case: dict[str, list[LabelOutcome]] = {}
    for answer in judged.answers:
        by_case.setdefault(answer.case, []).append(answer)
    for run, cases in judged.ratings.items():
        called = {case: rate(calibration) for case, rate in cases.items()}
        for rating in ("good", "check", "poor"):
            mine = [by_case[case] for case, said in called.items() if said == rating]
            if not mine:
                lines.append(f"| {run} | {rating} | 0 | | | |")
                continue
            scores = [a.score for answers in mine for a in answers]
            worst = max(scores, key=abs) if "bias" in judged.score else min(scores)
            spoilt = sum(any(a.bad for a in answers) for answers in mine)
            lines.append(f"| {run} | {rating} | {len(mine)} | {mean(scores):.3f} | {worst:.3f} | {spoilt} |")
    return lines


def record_calibration(bundle: Bundle, found: CalibrationReport) -> None:
    """Write limits and cases to metadata.json (medvit.quality, medvit.validation) and the table to docs/README.md.

    Raises:
        BundleError: docs/README.md lacks one of the markers; nothing is written then.
    """
    before, after = place_for(bundle, QUALITY)
    path = bundle.root / "configs" / "metadata.json"
    metadata = json.loads(path.read_text())
    metadata["medvit"]["quality"] = found.calibration.model_dump()
    metadata["medvit"]["validation"] = found.validation.model_dump(exclude_none=True)
    with replace_file(path) as aside:
        aside.write_text(json.dumps(metadata, indent=2) + "\n")
    with replace_file(bundle.root / "docs" / "README.md") as aside:
        aside.write_text(f"{before}{QUALITY.start}\n{found.table}\n{QUALITY.end}{after}")
