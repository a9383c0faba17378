"""Evaluation of two-view reconstruction on radiographs computed from CTs, against constant guesses that ignore the
radiographs."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import mean
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from medvit.bundles import Bundle, Calibration
from medvit.errors import ShapeError
from medvit.inference import LoadedBundle, by_name
from medvit.pipeline import Predictor
from medvit.reports import UncertaintySignals, dice
from medvit.training.data import ImageLabelPair
from medvit.training.evaluation.evaluation_set import EvaluationSet, Report, Scorer, labelled_pairs, per_label, summary
from medvit.training.evaluation.outcomes import LabelOutcome, QualitySignal, ScoredCases

__all__ = ["TwoViewOverlap", "best_constant", "mean_atlas", "two_view_table"]


@dataclass(frozen=True)
class TwoViewOverlap:
    """Dice of every label in every case, with the Dice of the best constant guess and of the mean atlas.

    Attributes:
        preparation: transform from a case's paths (``image``, ``label``) to ``coronal`` and ``sagittal`` pictures (1,
            row, column) and ``label`` (1, x, y, z) on the network grid:
            ``medvit.training.data.xray_pairs.RadiographsAndLabels``.
        acceptable: Dice below which a label is a bad outcome, for the rating.
        baseline_split: part of the list from which the guesses are made; never the evaluated part.
    """

    task: ClassVar[str] = "reconstruction"

    preparation: Callable[[Mapping[Hashable, Any]], dict[Hashable, Any]]
    baseline_split: str = "training"
    acceptable: float = 0.7

    def judge(self, part: EvaluationSet) -> Scorer:
        """Prepare the cases; scores have ``{"mean_dice", "per_label", "baseline", "atlas", "cases", "baseline_cases"}``
        in addition.

        Raises:
            SourceError: the list is wrong.
            ShapeError: labels and image have different grids.
        """
        cases = {pair.name: self._prepare(pair) for pair in labelled_pairs(part)}
        others = [_ids(self._prepare(pair)) for pair in labelled_pairs(part, self.baseline_split)]
        labels = part.bundle.facts.labels
        masks = {label.name: [ids == label.id for ids in others] for label in labels}
        names = [label.name for label in labels]

        def constant(guess: dict[str, NDArray[np.bool_]]) -> dict[str, dict[str, float]]:
            return {
                name: {label.name: dice(guess[label.name], _ids(made) == label.id) for label in labels}
                for name, made in cases.items()
            }

        without = constant({name: best_constant(each) for name, each in masks.items()})
        atlas = per_label(names, constant({name: mean_atlas(each) for name, each in masks.items()}))

        def scores(model: LoadedBundle, say: Report) -> dict[str, Any]:
            found = {}
            for name, made in cases.items():
                ids, _ = _found(model, made)
                found[name] = {label.name: dice(ids == label.id, _ids(made) == label.id) for label in labels}
                guessed = mean(without[name].values())
                say(f"{name}: mean Dice {mean(found[name].values()):.3f}, without the X-rays {guessed:.3f}")
            rows, baseline = per_label(names, found), per_label(names, without)
            metrics = {"mean_dice": mean(row["mean"] for row in rows.values())}
            metrics["mean_dice_without_xrays"] = mean(row["mean"] for row in baseline.values())
            for name in names:
                metrics[f"dice_{name}"] = rows[name]["mean"]
                metrics[f"dice_{name}_without_xrays"] = baseline[name]["mean"]
                metrics[f"dice_{name}_mean_atlas"] = atlas[name]["mean"]
            return {
                **summary(part, self.task, metrics),
                "mean_dice": metrics["mean_dice"],
                "per_label": rows,
                "baseline": baseline,
                "atlas": atlas,
                "cases": found,
                "baseline_cases": without,
            }

        return scores

    def answers(self, part: EvaluationSet, model: LoadedBundle, say: Report) -> ScoredCases:
        """Score every label of every case with its entropy; agreement with the views is rated separately."""
        labels = part.bundle.facts.labels
        found: list[LabelOutcome] = []
        ratings: dict[str, Callable[[Calibration], str]] = {}
        for pair in labelled_pairs(part):
            made = self._prepare(pair)
            ids, entropies = _found(model, made)
            entropy = by_name(entropies, labels)
            for label in labels:
                score = dice(ids == label.id, _ids(made) == label.id)
                signals: dict[QualitySignal, float] = {"entropy": entropy[label.name]} if label.name in entropy else {}
                found.append(LabelOutcome(pair.name, score, score < self.acceptable, signals))
            ratings[pair.name] = partial(_rating, len(entropy) < len(labels), UncertaintySignals(entropy))
            say(f"{pair.name}: {entropy}")
        return ScoredCases(
            bad=f"Dice of a label below {self.acceptable:g}",
            score="Dice",
            answers=tuple(found),
            ratings={"plain": ratings},
        )

    def _prepare(self, pair: ImageLabelPair) -> dict[Hashable, Any]:
        return self.preparation({"image": str(pair.image), "label": str(pair.label), "reading": pair.reading})


def _ids(made: Mapping[Hashable, Any]) -> NDArray[np.int64]:
    """Return the reference labels of a prepared case, (x, y, z)."""
    ids: NDArray[np.int64] = np.asarray(made["label"])[0]
    return ids


def _rating(absent: bool, signals: UncertaintySignals, calibration: Calibration) -> str:
    """Rate like ``judge_shapes``, but without volumes and views."""
    return "poor" if absent else "check" if replace(signals, calibration=calibration).reasons() else "good"


def _found(model: LoadedBundle, made: Mapping[Hashable, Any]) -> tuple[NDArray[np.integer], tuple[float | None, ...]]:
    """Return the labels that a model computes from a prepared case's radiographs, (x, y, z), and their entropies."""
    prediction = Predictor(model).predict({name: made[name] for name in ("coronal", "sagittal")})
    ids: NDArray[np.integer] = np.asarray(prediction.output)[0]
    if ids.shape != _ids(made).shape:
        raise ShapeError(
            f"labels of {ids.shape} for references of {_ids(made).shape}",
            "both must lie on the network's grid",
            "Give evaluate.json's field the img_size of inference.json.",
        )
    return ids, prediction.entropies


def mean_atlas(masks: Sequence[NDArray[np.bool_]]) -> NDArray[np.bool_]:
    """Return the voxels that at least half of the masks contain, as a baseline without X-rays; ``best_constant`` is a
    stronger one."""
    half: NDArray[np.bool_] = 2 * np.sum(masks, axis=0) >= len(masks)
    return half


def best_constant(masks: Sequence[NDArray[np.bool_]]) -> NDArray[np.bool_]:
    """Return the constant mask with the highest mean Dice with these masks, among all thresholds of their mean.

    The usual threshold is half of the cases. Where patients are positioned differently it loses thin bones, which makes
    a weak baseline.

    Args:
        masks: one mask per case, all of one shape; at least one.
    """
    votes = np.sum(masks, axis=0)
    levels = np.arange(1, len(masks) + 1)
    size = np.array([(votes >= level).sum() for level in levels])
    each = []
    for mask in masks:
        counts = np.bincount(votes[mask], minlength=len(masks) + 1)
        overlap = counts[::-1].cumsum()[::-1][1:]  # voxels of this case with at least so many votes
        total = size + mask.sum()
        each.append(np.where(total > 0, 2 * overlap / np.maximum(total, 1), 1.0))
    best = int(levels[int(np.mean(each, axis=0).argmax())])
    chosen: NDArray[np.bool_] = votes >= best
    return chosen


def two_view_table(bundle: Bundle, scores: dict[str, Any]) -> str:
    """Format the scores as a Markdown table."""
    lines = [
        "| label | mean Dice | spread (std) | lowest | without the X-rays: best guess | mean atlas |",
        "|---|---|---|---|---|---|",
    ]
    for label in bundle.facts.labels:
        row, guess, atlas = (scores[which][label.name] for which in ("per_label", "baseline", "atlas"))
        lines.append(
            f"| {label.title} | {row['mean']:.3f} | {row['std']:.3f} | {row['lowest']:.3f} | {guess['mean']:.3f} | {atlas['mean']:.3f} |"
        )
    guessed = scores["metrics"]["mean_dice_without_xrays"]
    lines.append(f"| **mean of {len(scores['cases'])} cases** | **{scores['mean_dice']:.3f}** | | | {guessed:.3f} | |")
    return "\n".join(lines)
