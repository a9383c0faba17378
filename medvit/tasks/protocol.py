"""The protocol that segmentation, restoration and reconstruction share: from a source to a result. Light: no torch."""

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
    from medvit.io import Scan
    from medvit.progress import Progress

__all__ = ["Input", "Inputs", "Prepared", "Source", "Task"]

Source: TypeAlias = "str | os.PathLike[str] | MetaTensor | Scan"
"""One image: a path, a MetaTensor (channel, i, j, k), or a scan that is open already."""

Inputs: TypeAlias = "Source | Mapping[str, object]"
"""The images of one case: a single source, or a mapping from the name of an input to a source, an ``Input`` or an opened image."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Input:
    """One image of a case, with what the user states about it.

    Attributes:
        source: see ``Source``.
        series: number or UID, where the source holds several series.
    """

    source: Source
    series: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Prepared(ABC):
    """The opened images of a case, found fit for a bundle.

    Attributes:
        notes: what a reader of the result must know about the images, in plain words.
        forced: what speaks against the images and was overridden by ``force``.
        repaired: what was repaired in their headers.
    """

    notes: tuple[str, ...] = ()
    forced: tuple[str, ...] = ()
    repaired: tuple[str, ...] = ()

    @property
    @abstractmethod
    def data(self) -> Mapping[str, MetaTensor]:
        """The images as the bundle's preprocessing takes them."""


Opened = TypeVar("Opened")
Fit = TypeVar("Fit", bound=Prepared)
Settings = TypeVar("Settings")
Made = TypeVar("Made", covariant=True)


class Task(Protocol[Opened, Fit, Settings, Made]):
    """The steps of one kind of bundle. Only ``predict`` and ``result`` load torch.

    Attributes:
        name: as bundles state it.
        inputs: names of the images of a case.
        settings: the class of the settings that the task takes.
        opened: the class of an image that is open.
    """

    name: ClassVar[str]
    inputs: ClassVar[tuple[str, ...]]
    settings: type[Settings]
    opened: type[Opened]

    def check(self, bundle: Bundle, settings: Settings) -> None:
        """Refuse settings that mean nothing to the bundle, before any file is read.

        Raises:
            MedvitError: what is wrong, and one step to take.
        """
        ...

    def open(
        self, inputs: Mapping[str, Input | Opened], bundle: Bundle, settings: Settings, progress: Progress
    ) -> Mapping[str, Opened]:
        """Open each input; check and return as it is one that is open already."""
        ...

    def prepare(self, opened: Mapping[str, Opened], bundle: Bundle, settings: Settings) -> Fit:
        """Check that the images are what the bundle was made for; ``force`` overrides that and is recorded."""
        ...

    def predict(self, loaded: LoadedBundle, prepared: Fit, settings: Settings, progress: Progress) -> Prediction:
        """Run the loaded bundle on the images."""
        ...

    def result(
        self, loaded: LoadedBundle, prepared: Fit, prediction: Prediction, settings: Settings, progress: Progress
    ) -> Made:
        """Make the result: the prediction with its sources, notes and the record of the run."""
        ...
