"""Inputs and outputs shared by all evaluations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, pstdev
from typing import Any, ClassVar, Protocol

from medvit.bundles import Bundle
from medvit.inference import LoadedBundle
from medvit.training.data import ImageLabelPair, VolumeReading, read_list

__all__ = ["Evaluation", "EvaluationSet", "Report", "Scorer", "labelled_pairs", "mean_rows", "per_label", "summary"]

Report = Callable[[str], None]
"""Function that receives a line for people after each case."""

Scorer = Callable[[LoadedBundle, Report], dict[str, Any]]
"""Function that scores a model on prepared cases; a training run calls it repeatedly.

The scores are one JSON object: ``task``, ``split``, ``metric`` (name of the number to watch), ``score`` (that number,
higher is better), ``metrics`` (flat, as in ``eval_metrics``, the number to watch first), ``cases``, and further numbers
of the task's table.
"""


@dataclass(frozen=True, kw_only=True)
class EvaluationSet:
    """A bundle and the part of a data list on which it is evaluated.

    Attributes:
        bundle: the bundle.
        data: data list; None for the bundle's own.
        root: folder of the list's paths; None as for ``medvit.training.data.data_list.data_root``.
        split: part of the list.
        watched: True during training: numbers that do not depend on the network are left out.
        reading: settings for reading NIfTI files, and the remarks collected on them.
    """

    bundle: Bundle
    data: Path | None = None
    root: Path | None = None
    split: str = "validation"
    watched: bool = False
    reading: VolumeReading = field(default_factory=VolumeReading, compare=False)


class Evaluation(Protocol):
    """Evaluation of the bundles of one task, built from ``evaluation`` in configs/evaluate.json."""

    task: ClassVar[str]

    def judge(self, part: EvaluationSet) -> Scorer:
        """Read and check the cases; return a function that scores models on them."""
        ...


def labelled_pairs(
    part: EvaluationSet, split: str | None = None, *, partly_labelled: bool = False
) -> list[ImageLabelPair]:
    """Read the images and labels of a part, or of another split of its list.

    Args:
        part: the bundle and the part of the list.
        split: another split of the list; None for the part's own.
        partly_labelled: True if the caller can handle cases in which some labels are unknown.

    Raises:
        SourceError: as for ``read_list``.
    """
    where = part.bundle, part.data, part.root, split or part.split
    return read_list(*where, partly_labelled=partly_labelled, reading=part.reading)


def summary(part: EvaluationSet, task: str, metrics: Mapping[str, float]) -> dict[str, Any]:
    """Make the common first entries of all scores; the first metric is the one to watch."""
    name, score = next(iter(metrics.items()))
    return {"task": task, "split": part.split, "metric": name, "score": score, "metrics": dict(metrics)}


def per_label(names: list[str], cases: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Compute mean, standard deviation and minimum of the Dice of each label over the cases that have it; others have
    no row."""
    columns = {name: [case[name] for case in cases.values() if name in case] for name in names}
    return {name: {"mean": mean(v), "std": pstdev(v), "lowest": min(v)} for name, v in columns.items() if v}


def mean_rows(cases: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """Average each number of each row over the cases; every case has the same rows (a dose, a factor)."""
    return {
        kind: {name: mean(case[kind][name] for case in cases.values()) for name in row}
        for kind, row in next(iter(cases.values())).items()
    }
