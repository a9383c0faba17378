"""The protocol that segmentation, restoration and reconstruction share, from a source to a result. Importing it loads
no torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeAlias, TypeVar

if TYPE_CHECKING:
    import os

    from monai.data import MetaTensor

    from medvit.bundles import Bundle
    from medvit.inference import LoadedBundle, Prediction
    from medvit.io import GridImage, Scan
    from medvit.progress import Progress

__all__ = ["Input", "Inputs", "Prepared", "Source", "Task"]

Source: TypeAlias = "str | os.PathLike[str] | MetaTensor | Scan"
"""One image: a path, a MetaTensor (channel, i, j, k), or an open scan."""

Inputs: TypeAlias = "Source | Mapping[str, object]"
"""The images of one case: a single source, or a mapping from input names to sources, ``Input`` objects or opened
images.
"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Input:
    """One image of a case, with details stated by the user.

    Attributes:
        source: see ``Source``.
        series: number or UID, where the source holds several series.

    Examples:
        >>> from medvit.tasks import Input
        >>> Input(source="study", series="2").series
        '2'
    """

    source: Source
    series: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Prepared(ABC):
    """The opened images of a case, checked for a bundle.

    Attributes:
        notes: notes on the images for readers of the result, in plain words.
        forced: reasons against the images that ``force`` overrode.
        repaired: repairs of their headers.

    Examples:
        >>> from medvit.tasks import Prepared, PreparedScan
        >>> issubclass(PreparedScan, Prepared)
        True
    """

    notes: tuple[str, ...] = ()
    forced: tuple[str, ...] = ()
    repaired: tuple[str, ...] = ()

    @property
    @abstractmethod
    def data(self) -> Mapping[str, GridImage]:
        """Input of the bundle's preprocessing: images by name."""


Opened = TypeVar("Opened")
Fit = TypeVar("Fit", bound=Prepared)
Settings = TypeVar("Settings")
Made = TypeVar("Made", covariant=True)


class Task(Protocol[Opened, Fit, Settings, Made]):
    """The steps of one kind of bundle. Only ``predict`` and ``result`` load torch.

    Attributes:
        name: name of the task in bundles.
        inputs: names of the images of a case.
        settings: class of the task's settings.
        opened: class of an opened image.

    Examples:
        >>> from medvit.segmentation import SegmentationTask
        >>> SegmentationTask.name, SegmentationTask.inputs
        ('segmentation', ('image',))
    """

    name: ClassVar[str]
    inputs: ClassVar[tuple[str, ...]]
    settings: type[Settings]
    opened: type[Opened]

    def check(self, bundle: Bundle, settings: Settings) -> None:
        """Refuse settings that do not apply to the bundle, before any file is read.

        Raises:
            MedvitError: a setting is invalid for the bundle.
        """
        ...

    def open(
        self, inputs: Mapping[str, Input | Opened], bundle: Bundle, settings: Settings, progress: Progress
    ) -> Mapping[str, Opened]:
        """Open each input; check inputs that are already open and return them unchanged."""
        ...

    def prepare(self, opened: Mapping[str, Opened], bundle: Bundle, settings: Settings) -> Fit:
        """Check that the images fit the bundle; ``force`` overrides the check and is recorded."""
        ...

    def predict(self, loaded: LoadedBundle, prepared: Fit, settings: Settings, progress: Progress) -> Prediction:
        """Run the loaded bundle on the images."""
        ...

    def result(
        self, loaded: LoadedBundle, prepared: Fit, prediction: Prediction, settings: Settings, progress: Progress
    ) -> Made:
        """Create the result: the prediction with its sources, notes and the record of the run."""
        ...
