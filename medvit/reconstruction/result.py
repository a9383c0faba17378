"""Result of a reconstruction: labels in 3-D, with surfaces, measures, rating and saving."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from medvit.reconstruction.statistics import ShapeMeasures
from medvit.reconstruction.views import View
from medvit.tasks import LabelResult, held_image

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medvit.io import Surface
    from medvit.reports import ImagedAnatomy
    from medvit.tasks import SavedResult

__all__ = ["Reconstructed"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Reconstructed(LabelResult[list[ShapeMeasures]]):
    """Labels reconstructed from two views, with their origin; see ``LabelResult``.

    The labels are (1, x, y, z) uint8 on the network grid, RAS+ mm with the isocenter at the origin, since radiographs
    do not state the patient's position.

    Attributes:
        labels, requested_labels, entropies: as for ``LabelResult``.
        bundle, settings, notes, progress, calibration, validation: as for ``TaskResult``.
        pictures: the AP and the lateral picture on the network's field of view, (row, column) float32.
        field_coverage: share of the field of view that each picture shows.
        views: the opened views.
        entropy_map: (x, y, z) float32, bits of every voxel, background included.

    Examples:
        >>> import medvit
        >>> result = medvit.reconstruct("ap.dcm", "lat.dcm")  # doctest: +SKIP
        >>> result.labels, result.statistics()[0].volume_ml  # doctest: +SKIP
    """

    pictures: tuple[NDArray[np.float32], NDArray[np.float32]]
    field_coverage: tuple[float, float]
    views: tuple[View, View]
    entropy_map: NDArray[np.float32] | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        size = " x ".join(map(str, held_image(self, "labels").shape[1:]))
        return f"Reconstructed({self.bundle.name} {self.bundle.version}, {size}: {', '.join(label.name for label in self.requested_labels)})"

    @property
    def affine(self) -> NDArray[np.float64]:
        """Affine from voxel index to RAS+ mm."""
        return np.asarray(held_image(self, "labels").affine, dtype=np.float64)

    @cached_property
    def surfaces(self) -> dict[str, Surface]:
        """Closed surface of each label that was found, by label name."""
        from medvit.reports import surface_of

        found = {}
        for label in self.requested_labels:
            mask = self.array == label.id
            if mask.any():
                self.progress.check()
                found[label.name] = surface_of(mask, self.affine)
        return found

    def statistics(self) -> list[ShapeMeasures]:
        """Return volume, surface, extents and principal axes of each label."""
        return self._shapes

    @cached_property
    def _shapes(self) -> list[ShapeMeasures]:
        from medvit.reconstruction.statistics import measure_shapes

        return measure_shapes(self.array, self.affine, self.requested_labels, self.surfaces)

    def consistency(self) -> dict[str, float]:
        """Return the agreement of each view with the result projected again, by slot; see
        ``medvit.reconstruction.view_consistency``."""
        return self._consistency

    @cached_property
    def _consistency(self) -> dict[str, float]:
        from medvit.reconstruction.view_consistency import gradient_correlation

        return {
            view.slot: gradient_correlation(picture, shadow)
            for view, picture, shadow in zip(self.views, self.pictures, self.reprojections, strict=True)
        }

    @cached_property
    def reprojections(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Length of the ray within labelled voxels for each pixel of each picture, (row, column) in mm."""
        from medvit.reconstruction.view_consistency import Beam, project_labels

        sides, made = np.linalg.norm(self.affine[:3, :3], axis=0), []
        for view, picture, degrees, across in zip(self.views, self.pictures, (0.0, 90.0), (0, 1), strict=True):
            rows, columns = picture.shape
            pixel = sides[2] * self.array.shape[2] / rows, sides[across] * self.array.shape[across] / columns
            beam = Beam(
                view_deg=degrees,
                magnification=view.magnification,
                source_to_patient_mm=view.source_to_patient_mm,
                shape=(rows, columns),
                pixel_mm=pixel,
            )
            made.append(project_labels(self.array, self.affine, beam))
        return made[0], made[1]

    def _rate(self) -> dict[str, Any]:
        """Rate the shapes by plausible anatomy, agreement with the views and the network's uncertainty."""
        from medvit.reconstruction.rating import RatedViews, judge_shapes
        from medvit.reports import UncertaintySignals

        covered: dict[str, float] = {
            view.slot: share for view, share in zip(self.views, self.field_coverage, strict=True)
        }
        signals = UncertaintySignals(self.entropy(), None, self.calibration)
        views = RatedViews(self.consistency(), covered)
        return judge_shapes(self.statistics(), self.requested_labels, views, signals)

    def _imaged(self) -> list[ImagedAnatomy]:
        from medvit.reports import ImagedAnatomy

        return [ImagedAnatomy(view.regions) for view in self.views]

    def save(
        self,
        folder: str | os.PathLike[str],
        output_types: Sequence[str] = ("nifti", "stl"),
        *,
        preview: bool = False,
        statistics: bool = False,
        maps: bool = False,
        overwrite: bool = False,
    ) -> SavedResult:
        """Write the result to a folder: all files, or none.

        Args:
            folder: folder to create. If it exists and has files, it is refused unless ``overwrite``.
            output_types: any of "nifti", "stl", "ply" and "obj" (one mesh per label, under ``meshes/``).
            preview: also write ``preview.png``.
            statistics: also write ``statistics.csv`` (``statistics.json`` is always written).
            maps: also write ``maps/entropy.nii.gz``, the network's uncertainty in bits.
            overwrite: replace an earlier result.

        Raises:
            OutputError: the folder cannot be written or already has files, or maps are requested of a network without
                an entropy map.
            RoundTripError: a surface is not closed.
        """
        from medvit.reconstruction.save import ReconstructedOutput, save_reconstructed

        settings = ReconstructedOutput(
            output_types=tuple(output_types), preview=preview, statistics=statistics, overwrite=overwrite, maps=maps
        )
        return save_reconstructed(self, folder, settings)
