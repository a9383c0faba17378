"""Reconstruction task: from two radiographs to labels in three dimensions."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from medvit import inference
from medvit.bundles import Bundle
from medvit.errors import SourceError
from medvit.io import GridImage, is_meta_tensor
from medvit.progress import Progress
from medvit.reconstruction.field import coverage_notes, difference_notes, field_of, on_field
from medvit.reconstruction.result import Reconstructed
from medvit.reconstruction.views import View, ViewGeometry, ViewPosition, open_view, require_one_patient
from medvit.tasks import Input, Prepared

if TYPE_CHECKING:
    from medvit.inference import LoadedBundle, Prediction

__all__ = ["PreparedViews", "ReconstructionSettings", "ReconstructionTask", "ViewInput"]


@dataclass(frozen=True)
class ReconstructionSettings:
    """Settings of a reconstruction.

    Attributes:
        device: as for ``RunSettings``.
        force: accept views that do not suit the bundle; recorded.
        threads: as for ``RunSettings``.

    Examples:
        >>> from medvit.reconstruction import ReconstructionSettings
        >>> ReconstructionSettings(device="cpu")
        ReconstructionSettings(device='cpu', force=False, threads=None)
    """

    device: str = "auto"
    force: bool = False
    threads: int | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class ViewInput(Input):
    """One radiograph, with geometry that its file lacks or that overrides the file's.

    Attributes:
        source, series: as for ``Input``.
        geometry: geometry as stated by the user.

    Examples:
        >>> from medvit import ViewGeometry
        >>> from medvit.reconstruction import ViewInput
        >>> ViewInput(source="ap.png", geometry=ViewGeometry(magnification=1.1)).geometry.magnification
        1.1
    """

    geometry: ViewGeometry | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparedViews(Prepared):
    """Two views of one patient on the network's field of view.

    Attributes:
        views: the opened views, AP first.
        pictures: each view on the field of view, (row, column) float32.
        field_coverage: share of the field of view that each picture shows.
    """

    views: tuple[View, View]
    pictures: tuple[NDArray[np.float32], NDArray[np.float32]]
    field_coverage: tuple[float, float]

    @property
    def data(self) -> Mapping[str, GridImage]:
        """Pictures as input of the bundle's preprocessing."""
        import torch

        nowhere = torch.eye(4, dtype=torch.float64)  # pictures have no place in the patient
        return {
            name: GridImage(values=torch.from_numpy(picture[None].copy()), affine=nowhere)
            for name, picture in zip(("coronal", "sagittal"), self.pictures, strict=True)
        }


class ReconstructionTask:
    """Steps of a bundle that reconstructs a volume from two radiographs; see ``medvit.tasks.Task``.

    Examples:
        >>> from medvit.reconstruction import ReconstructionTask
        >>> ReconstructionTask().inputs
        ('ap', 'lat')
    """

    name: ClassVar[str] = "reconstruction"
    inputs: ClassVar[tuple[str, ...]] = ("ap", "lat")
    settings = ReconstructionSettings
    opened = View

    def check(self, bundle: Bundle, settings: ReconstructionSettings) -> None:
        """Refuse a bundle of another task."""
        bundle.require_task(self.name)

    def open(
        self,
        inputs: Mapping[str, Input | View],
        bundle: Bundle,
        settings: ReconstructionSettings,
        progress: Progress,
    ) -> dict[str, View]:
        """Open each radiograph as a view; a view that is already open is unchanged.

        Raises:
            SourceError: a file cannot be read.
            MedvitError: other errors as for ``open_view``.
        """
        found = {}
        for name, one in inputs.items():
            if isinstance(one, View):
                found[name] = one
                continue
            slot: ViewPosition = "AP" if name == "ap" else "lateral"
            if not isinstance(one.source, str | os.PathLike):
                raise SourceError(
                    f"{type(one.source).__name__} as {slot} view",
                    "a radiograph in a file is needed, or a view from open_view",
                )
            geometry = one.geometry if isinstance(one, ViewInput) else None
            found[name] = open_view(one.source, slot, bundle, geometry, settings.force, progress, one.series)
        return found

    def prepare(self, opened: Mapping[str, View], bundle: Bundle, settings: ReconstructionSettings) -> PreparedViews:
        """Check that both views are of one patient; resample them to the network's field of view.

        Raises:
            SourceError: the views name different patients.
            BundleError: the bundle does not state its field of view.
        """
        views = opened["ap"], opened["lat"]
        patient = require_one_patient(views, settings.force)
        size, sides = field_of(bundle)
        (ap, ap_share), (lat, lat_share) = (
            on_field(view, (size[2], size[across]), (sides[2], sides[across]))
            for view, across in zip(views, (0, 1), strict=True)
        )
        covered = ap_share, lat_share
        notes = (
            *(note for view in views for note in view.notes),
            *patient,
            *difference_notes(views),
            *coverage_notes(views, covered, size, sides),
        )
        return PreparedViews(notes=notes, views=views, pictures=(ap, lat), field_coverage=covered)

    def predict(
        self, loaded: LoadedBundle, prepared: PreparedViews, settings: ReconstructionSettings, progress: Progress
    ) -> Prediction:
        """Label the volume and keep the entropy of every voxel."""
        return inference.apply(loaded, prepared.data, progress, entropy_map=True)

    def result(
        self,
        loaded: LoadedBundle,
        prepared: PreparedViews,
        prediction: Prediction,
        settings: ReconstructionSettings,
        progress: Progress,
    ) -> Reconstructed:
        """Add the views, notes and the record of the run to the labels."""
        labels, bits = prediction.output, prediction.entropy_map
        assert isinstance(labels, GridImage) or is_meta_tensor(labels)  # the bundle's postprocessing returns an image
        return Reconstructed(
            labels=labels,
            requested_labels=loaded.bundle.facts.labels,
            pictures=prepared.pictures,
            field_coverage=prepared.field_coverage,
            views=prepared.views,
            bundle=loaded.bundle,
            settings=_record(loaded, prediction, settings),
            notes=(*prepared.notes, *loaded.notes),
            progress=progress,
            entropies=prediction.entropies,
            calibration=loaded.calibration,
            # the map has the network grid, so it is dropped if postprocessing moves the labels to another grid
            entropy_map=None if bits is None or bits.shape != labels.shape[1:] else bits,
            validation=loaded.validation,
        )


def _record(loaded: LoadedBundle, prediction: Prediction, settings: ReconstructionSettings) -> dict[str, Any]:
    import torch

    return {
        "device": str(loaded.device),
        "device_asked": settings.device,
        "precision": prediction.precision,
        "forced": settings.force,
        "threads": torch.get_num_threads(),
    }
