"""What every evaluation is given and gives."""

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
"""Takes a line for people as soon as a case is judged."""

Scorer = Callable[[LoadedBundle, Report], dict[str, Any]]
"""Scores a model on cases it holds ready, so that a training run can ask again and again.

The scores are one JSON object: ``task``, ``split``, ``metric`` (the name of the number to watch), ``score`` (that number,
higher is better), ``metrics`` (flat, as ``eval_metrics`` keeps them, the number to watch first), ``cases``, and what else
the task's table shows.
"""


@dataclass(frozen=True, kw_only=True)
class EvaluationSet:
    """A bundle and the part of a data list that judges it.

    Attributes:
        bundle: the bundle.
        data: data list; None for the bundle's own.
        root: folder the list's paths start from; None as ``medvit.training.data.data_list.data_root`` says.
        split: the part of the list.
        watched: whether a training run watches the scores: what does not depend on the network is left out of them.
        reading: how NIfTI files are read, and the remarks collected on them.
    """

    bundle: Bundle
    data: Path | None = None
    root: Path | None = None
    split: str = "validation"
    watched: bool = False
    reading: VolumeReading = field(default_factory=VolumeReading, compare=False)


class Evaluation(Protocol):
    """How the bundles of one task are judged: what ``evaluation`` in configs/evaluate.json builds."""

    task: ClassVar[str]

    def judge(self, part: EvaluationSet) -> Scorer:
        """Read what judges, refuse what cannot, and give back what scores models by it."""
        ...


def labelled_pairs(
    part: EvaluationSet, split: str | None = None, *, partly_labelled: bool = False
) -> list[ImageLabelPair]:
    """Read the images and labels of a part, or of another split of its list.

    Args:
        part: the bundle and the part of the list.
        split: another split of the list; None for the part's own.
        partly_labelled: whether the caller can handle cases in which some labels are unknown.

    Raises:
        SourceError: as ``read_list``.
    """
    where = part.bundle, part.data, part.root, split or part.split
    return read_list(*where, partly_labelled=partly_labelled, reading=part.reading)


def summary(part: EvaluationSet, task: str, metrics: Mapping[str, float]) -> dict[str, Any]:
    """What stands at the top of all scores; the first metric is the one to watch."""
    name, score = next(iter(metrics.items()))
    return {"task": task, "split": part.split, "metric": name, "score": score, "metrics": dict(metrics)}


def per_label(names: list[str], cases: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Compute mean, spread and lowest Dice of each label over the cases that have it; a label of no case has no row."""
    columns = {name: [case[name] for case in cases.values() if name in case] for name in names}
    return {name: {"mean": mean(v), "std": pstdev(v), "lowest": min(v)} for name, v in columns.items() if v}


def mean_rows(cases: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """The means over the cases of each figure of each row; every case has the same rows (a dose, a factor)."""
    return {
        kind: {name: mean(case[kind][name] for case in cases.values()) for name in row}
        for kind, row in next(iter(cases.values())).items()
    }
