"""Segmentation: the overlap of labels with reference labels on the source's own grid."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import mean
from typing import Any, ClassVar

import nibabel as nib
import numpy as np

from medvit.bundles import Bundle
from medvit.errors import SourceError
from medvit.model import Model
from medvit.pipeline import run_model
from medvit.result import Result
from medvit.training.data import Pair, load_labels
from medvit.training.evaluation.part import Judge, Part, Say, labelled_pairs, per_label, summary

__all__ = ["LabelOverlap", "dice", "dice_table"]


def dice(found: np.ndarray, truth: np.ndarray) -> float:
    """Dice overlap of two masks; 1 if both are empty."""
    total = int(found.sum()) + int(truth.sum())
    return 2 * int((found & truth).sum()) / total if total else 1.0


@dataclass(frozen=True)
class LabelOverlap:
    """Dice of every label in every case."""

    task: ClassVar[str] = "segmentation"

    def judge(self, part: Part) -> Judge:
        """See ``Evaluation``; ``{"mean_dice", "per_label", "cases"}`` beside what all scores have.

        Raises:
            SourceError: the list is wrong; and, when a model is scored, labels that do not belong to their image.
        """
        pairs = labelled_pairs(part)
        labels = part.bundle.facts.labels

        def scores(model: Model, say: Say) -> dict[str, Any]:
            cases = {}
            for pair in pairs:
                result = run_model(model, pair.image)
                truth = _truth(pair, result, part.bundle)
                cases[pair.name] = {label.name: dice(result.array == label.id, truth == label.id) for label in labels}
                say(f"{pair.name}: mean Dice {mean(cases[pair.name].values()):.3f}")
            rows = per_label([label.name for label in labels], cases)
            metrics = {"mean_dice": mean(row["mean"] for row in rows.values())}
            metrics |= {f"dice_{name}": row["mean"] for name, row in rows.items()}
            top = summary(part, self.task, metrics)
            return {**top, "mean_dice": metrics["mean_dice"], "per_label": rows, "cases": cases}

        return scores


def _truth(pair: Pair, result: Result, bundle: Bundle) -> np.ndarray:
    """The reference ids of a pair, seen to lie on the image's grid and to be the bundle's."""
    truth = load_labels(pair)
    if truth.shape != result.array.shape:
        raise SourceError(
            f"Found {pair.name} with an image of {result.array.shape} and labels of {truth.shape}; they must share one grid. "
            "Resample the labels first."
        )
    if not result.scan.is_picture and not np.allclose(nib.load(pair.label).affine, result.scan.affine, atol=1e-3):
        raise SourceError(
            f"Found {pair.name} with image and labels on different grids; they must share one. Resample the labels first."
        )
    known = max(label.id for label in bundle.facts.labels)
    if int(truth.max()) > known:
        raise SourceError(
            f"Found label {int(truth.max())} in {pair.name}; {bundle.name} knows 0..{known}. Correct the labels."
        )
    return truth


def dice_table(bundle: Bundle, scores: dict[str, Any]) -> str:
    """The scores as a Markdown table."""
    lines = ["| label | mean Dice | spread (std) | lowest |", "|---|---|---|---|"]
    for label in bundle.facts.labels:
        row = scores["per_label"][label.name]
        lines.append(f"| {label.title} | {row['mean']:.3f} | {row['std']:.3f} | {row['lowest']:.3f} |")
    lines.append(f"| **mean of {len(scores['cases'])} cases** | **{scores['mean_dice']:.3f}** | | |")
    return "\n".join(lines)
