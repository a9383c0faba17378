"""The base of the results of all tasks: what a run returns, how far to trust it, and how it is saved."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from medvit.bundles import Bundle, Calibration, Validation
from medvit.inference import by_name
from medvit.labels import Label
from medvit.progress import Progress

if TYPE_CHECKING:
    from monai.data import MetaTensor

    from medvit.reports import ImagedAnatomy
    from medvit.tasks.save import SavedResult

__all__ = ["LabelResult", "TaskResult"]

Statistics = TypeVar("Statistics")
"""The type of a task's statistics."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TaskResult(ABC, Generic[Statistics]):
    """The result of a run and its origin.

    Attributes:
        bundle: the bundle that made it.
        settings: device, precision and switches of the run, as they go into ``run.json``.
        notes: what a reader of the result must know, in plain words.
        progress: holds the seconds of each stage.
        calibration: what the signals of uncertainty or change mean for the weights that ran, if that is known.
        validation: the cases behind the calibration, if they are known.
    """

    bundle: Bundle
    settings: dict[str, Any]
    notes: tuple[str, ...]
    progress: Progress = field(repr=False)
    calibration: Calibration | None = None
    validation: Validation | None = None

    @abstractmethod
    def statistics(self) -> Statistics:
        """Return what was measured of the result."""

    @abstractmethod
    def _rate(self) -> dict[str, Any]:
        """Rate the result by what can be seen of it: ``{"rating", "reasons"}``."""

    @abstractmethod
    def _imaged(self) -> list[ImagedAnatomy]:
        """Return the anatomy that each source shows."""

    def quality(self) -> dict[str, Any]:
        """Rate the result: ``{"rating": "good" | "uncalibrated" | "check" | "poor", "reasons": [...]}``.

        By what can be seen of it, and what the weights and this anatomy are known for.
        """
        from medvit.reports import with_standing

        return with_standing(self._rate(), self.bundle, self.validation, self._imaged())

    @abstractmethod
    def save(self, folder: str | os.PathLike[str], output_types: Sequence[str]) -> SavedResult:
        """Write the result into a folder: all of it, or nothing."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelResult(TaskResult[Statistics]):
    """A result that is a label map.

    Attributes:
        labels: MetaTensor on the CPU, (1, i, j, k), integer; ids as in the bundle.
        requested_labels: the labels asked for; all of the bundle's unless a part of them was asked for.
        entropies: bits a voxel of labels 1, 2 and so on, see ``medvit.inference.uncertainty``; empty where no network's answer is left.
    """

    labels: MetaTensor
    requested_labels: tuple[Label, ...]
    entropies: tuple[float | None, ...] = ()

    @property
    def array(self) -> np.ndarray:
        """The labels as a plain (i, j, k) array."""
        plain: np.ndarray = np.asarray(self.labels)[0]
        return plain

    def entropy(self) -> dict[str, float]:
        """How undecided the network was about each wanted label that it gave, in bits a voxel; see ``medvit.inference.uncertainty``."""
        return by_name(self.entropies, self.requested_labels)
