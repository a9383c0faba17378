"""Base class of the results of all tasks: output, rating and saving."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from medvit.bundles import Bundle, Calibration, Validation
from medvit.inference import by_name
from medvit.io import GridImage
from medvit.labels import Label
from medvit.progress import Progress

if TYPE_CHECKING:
    from monai.data import MetaTensor

    from medvit.reports import ImagedAnatomy
    from medvit.tasks.save import SavedResult

__all__ = ["ImageField", "LabelResult", "TaskResult", "held_image"]

Statistics = TypeVar("Statistics")
"""Type of a task's statistics."""


class ImageField:
    """Field of a result that holds an image, and is read as a MetaTensor, which is made at the first reading.

    Examples:
        >>> import torch
        >>> from medvit.io import GridImage
        >>> from medvit.tasks import ImageField, held_image
        >>> class Shown:
        ...     labels = ImageField()
        >>> shown = Shown()
        >>> shown.labels = GridImage(values=torch.zeros(1, 4, 4, 2), affine=torch.eye(4), meta={})
        >>> type(held_image(shown, "labels")).__name__
        'GridImage'
        >>> type(shown.labels).__name__
        'MetaTensor'
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = f"_{name}"

    def __get__(self, result: object | None, owner: type | None = None) -> MetaTensor:
        if result is None:
            raise AttributeError("the field has no default")
        image: GridImage | MetaTensor = vars(result)[self._name]
        if isinstance(image, GridImage):
            image = vars(result)[self._name] = image.meta_tensor()
        return image

    def __set__(self, result: object, image: GridImage | MetaTensor) -> None:
        vars(result)[self._name] = image


def held_image(result: object, name: str) -> GridImage | MetaTensor:
    """Return the image of a result's ``ImageField`` as it is held, without loading MONAI.

    Args:
        result: the result.
        name: name of the field.

    Returns:
        The image with its affine.

    Examples:
        >>> import numpy as np, torch
        >>> from types import SimpleNamespace
        >>> from medvit.io import GridImage
        >>> from medvit.tasks import held_image
        >>> result = SimpleNamespace(_labels=GridImage(values=torch.zeros(1, 2, 2, 2), affine=torch.eye(4)))
        >>> np.asarray(held_image(result, "labels")).shape
        (1, 2, 2, 2)
    """
    image: GridImage | MetaTensor = vars(result)[f"_{name}"]
    return image


@dataclass(frozen=True, kw_only=True, eq=False)
class TaskResult(ABC, Generic[Statistics]):
    """The result of a run and its origin.

    Attributes:
        bundle: the bundle that made it.
        settings: device, precision and other settings of the run, as in ``run.json``.
        notes: notes for readers of the result, in plain words.
        progress: holds the seconds of each stage.
        calibration: limits of the quality signals for the weights that ran, if known.
        validation: the cases behind the calibration, if known.

    Examples:
        >>> from medvit.restoration import Restored
        >>> from medvit.tasks import TaskResult
        >>> issubclass(Restored, TaskResult)
        True
    """

    bundle: Bundle
    settings: dict[str, Any]
    notes: tuple[str, ...]
    progress: Progress = field(repr=False)
    calibration: Calibration | None = None
    validation: Validation | None = None

    @abstractmethod
    def statistics(self) -> Statistics:
        """Return the measurements of the result."""

    @abstractmethod
    def _rate(self) -> dict[str, Any]:
        """Rate the result by its own content: ``{"rating", "reasons"}``."""

    @abstractmethod
    def _imaged(self) -> list[ImagedAnatomy]:
        """Return the anatomy that each source shows."""

    def quality(self) -> dict[str, Any]:
        """Rate the result: ``{"rating": "good" | "uncalibrated" | "check" | "poor", "reasons": [...]}``.

        The rating combines the content of the result with the validation of the weights and of the imaged anatomy.
        """
        from medvit.reports import with_standing

        return with_standing(self._rate(), self.bundle, self.validation, self._imaged())

    @abstractmethod
    def save(self, folder: str | os.PathLike[str], output_types: Sequence[str]) -> SavedResult:
        """Write the result to a folder, atomically."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelResult(TaskResult[Statistics]):
    """A result that is a label map.

    Attributes:
        labels: MetaTensor on the CPU, (1, i, j, k), integer; ids as in the bundle.
        requested_labels: the requested labels; by default all labels of the bundle.
        entropies: mean entropy of labels 1, 2 and so on in bits per voxel, see ``medvit.inference.uncertainty``; empty
            where no network output is available.
        bundle, settings, notes, progress, calibration, validation: as in ``TaskResult``.

    Examples:
        >>> from medvit.segmentation import Result
        >>> from medvit.tasks import LabelResult
        >>> issubclass(Result, LabelResult)
        True
    """

    labels: ImageField = ImageField()
    requested_labels: tuple[Label, ...]
    entropies: tuple[float | None, ...] = ()

    @property
    def array(self) -> np.ndarray:
        """Labels as a plain (i, j, k) array."""
        plain: np.ndarray = np.asarray(held_image(self, "labels"))[0]
        return plain

    def entropy(self) -> dict[str, float]:
        """Return the mean entropy of each requested label that was found, in bits per voxel; see
        ``medvit.inference.uncertainty``.
        """
        return by_name(self.entropies, self.requested_labels)
