"""Evaluation of segmentation: overlap of labels with reference labels on the source grid."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any, ClassVar

import numpy as np
from monai.data import MetaTensor

from medvit.bundles import Bundle, Calibration
from medvit.errors import SourceError
from medvit.inference import LoadedBundle
from medvit.labels import Label, LabelMeasures
from medvit.pipeline import Predictor
from medvit.reports import UncertaintySignals, dice, rate_labels
from medvit.segmentation import Result
from medvit.settings import RunSettings
from medvit.training.data import ImageLabelPair, check_annotated, load_labels, validate_label_ids
from medvit.training.evaluation.evaluation_set import EvaluationSet, Report, Scorer, labelled_pairs, per_label, summary
from medvit.training.evaluation.outcomes import LabelOutcome, QualitySignal, ScoredCases

__all__ = ["LabelOverlap", "LabelledCase", "dice_table"]


@dataclass(frozen=True)
class LabelledCase:
    """An image with reference labels.

    Attributes:
        name: name of the case.
        source: input of the model.
        truth: function from a result to the reference ids on its grid, (i, j, k) or (row, column).
        annotated: ids of the annotated labels, the only ones to score; None for all.
    """

    name: str
    source: Path | MetaTensor
    truth: Callable[[Result], np.ndarray]
    annotated: frozenset[int] | None = None

    def judged(self, labels: Iterable[Label]) -> list[Label]:
        """Select the labels that can be scored in this case."""
        return [label for label in labels if self.annotated is None or label.id in self.annotated]


@dataclass(frozen=True)
class LabelOverlap:
    """Dice of every label in every case.

    Attributes:
        acceptable: Dice below which a label is a bad outcome, for the rating.
        real_patients: True if the images of the list are of real patients.
    """

    task: ClassVar[str] = "segmentation"

    acceptable: float = 0.7
    real_patients: bool = True

    def judge(self, part: EvaluationSet) -> Scorer:
        """Prepare the cases; scores have ``{"mean_dice", "per_label", "cases"}`` in addition.

        Raises:
            SourceError: the list is wrong; or, when a model is scored, labels do not match their image.
        """
        judging = self.cases(part)
        labels = part.bundle.facts.labels

        def scores(model: LoadedBundle, say: Report) -> dict[str, Any]:
            cases = {}
            for case in judging:
                result = _answer(model, case, RunSettings(fast=model.fast), part)
                truth = case.truth(result)
                cases[case.name] = {
                    label.name: dice(result.array == label.id, truth == label.id) for label in case.judged(labels)
                }
                say(f"{case.name}: mean Dice {mean(cases[case.name].values()):.3f}")
            rows = per_label([label.name for label in labels], cases)
            unjudged = [label.title for label in labels if label.name not in rows]
            if unjudged:
                say(f"Not scored, since no case has them annotated: {', '.join(unjudged)}.")
            metrics = {"mean_dice": mean(row["mean"] for row in rows.values())}
            metrics |= {f"dice_{name}": row["mean"] for name, row in rows.items()}
            top = summary(part, self.task, metrics)
            return {**top, "mean_dice": metrics["mean_dice"], "per_label": rows, "cases": cases}

        return scores

    def cases(self, part: EvaluationSet) -> Sequence[LabelledCase]:
        """Return the cases: the images and labels of the list.

        Raises:
            SourceError: the list is wrong.
        """
        return [
            LabelledCase(p.name, p.image, partial(_truth, p, part.bundle), p.annotated)
            for p in labelled_pairs(part, partly_labelled=True)
        ]

    def is_real(self, part: EvaluationSet) -> bool:
        """Return True if the cases of a part are of real patients."""
        return self.real_patients

    def answers(self, part: EvaluationSet, model: LoadedBundle, say: Report) -> ScoredCases:
        """Score every label of every case with its entropy and its agreement with the mirror image."""
        found: list[LabelOutcome] = []
        ratings: dict[str, dict[str, Callable[[Calibration], str]]] = {"plain": {}, "with a quality map": {}}
        for case in self.cases(part):
            result = _answer(model, case, RunSettings(fast=model.fast, quality_map=True), part)
            truth = case.truth(result)
            entropy, agreement = result.entropy(), result.agreement() or {}
            for label in case.judged(result.requested_labels):
                score = dice(result.array == label.id, truth == label.id)
                signals: dict[QualitySignal, float] = {"agreement": agreement[label.name]}
                if label.name in entropy:
                    signals["entropy"] = entropy[label.name]
                found.append(LabelOutcome(case.name, score, score < self.acceptable, signals))
            rows = result.statistics(), result.requested_labels
            ratings["plain"][case.name] = partial(_rating, *rows, UncertaintySignals(entropy))
            ratings["with a quality map"][case.name] = partial(_rating, *rows, UncertaintySignals(entropy, agreement))
            say(f"{case.name}: {', '.join(f'{k} {v}' for k, v in found[-1].signals.items())}")
        return ScoredCases(
            bad=f"Dice of a label below {self.acceptable:g}",
            score="Dice",
            answers=tuple(found),
            ratings=ratings,
            real=self.is_real(part),
        )


def _rating(
    measures: Sequence[LabelMeasures], labels: Sequence[Label], signals: UncertaintySignals, calibration: Calibration
) -> str:
    return str(rate_labels(measures, labels, replace(signals, calibration=calibration))["rating"])


def _answer(model: LoadedBundle, case: LabelledCase, settings: RunSettings, part: EvaluationSet) -> Result:
    """Run a model on a case; collect the remarks from reading the case."""
    result = Predictor(model, settings, geometry=part.reading.geometry).run(case.source)
    assert isinstance(result, Result)  # the bundle is for segmentation
    part.reading.remark(case.name, result.scan.notes, result.scan.excluded)
    return result


def _truth(pair: ImageLabelPair, bundle: Bundle, result: Result) -> np.ndarray:
    """Return the reference ids of a pair; check that they have the image's grid and the bundle's ids."""
    truth = load_labels(pair)
    if truth.shape != result.array.shape:
        raise SourceError(
            f"{pair.name} with an image of {result.array.shape} and labels of {truth.shape}",
            "they must share one grid",
            "Resample the labels first.",
        )
    if not result.scan.is_picture and not np.allclose(
        pair.reading.load(pair.label).affine, result.scan.affine, atol=1e-3
    ):
        raise SourceError(
            f"{pair.name} with image and labels on different grids", "they must share one", "Resample the labels first."
        )
    ids = validate_label_ids(truth, pair.name, max(label.id for label in bundle.facts.labels) + 1, bundle.name)
    check_annotated(ids, pair, {label.id: label.name for label in bundle.facts.labels})
    return ids


def dice_table(bundle: Bundle, scores: dict[str, Any]) -> str:
    """Format the scores as a Markdown table."""
    lines = ["| label | mean Dice | spread (std) | lowest |", "|---|---|---|---|"]
    for label in bundle.facts.labels:
        row = scores["per_label"].get(label.name)
        if row is None:
            lines.append(f"| {label.title} | not annotated in any case | | |")
            continue
        lines.append(f"| {label.title} | {row['mean']:.3f} | {row['std']:.3f} | {row['lowest']:.3f} |")
    lines.append(f"| **mean of {len(scores['cases'])} cases** | **{scores['mean_dice']:.3f}** | | |")
    return "\n".join(lines)
