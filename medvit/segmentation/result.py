"""Result of a segmentation: labels on the source grid, with statistics, rating and saving."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from medvit.io import Scan
from medvit.labels import LabelMeasures
from medvit.tasks import LabelResult

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medvit.reports import ImagedAnatomy
    from medvit.tasks import SavedResult

__all__ = ["Result"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Result(LabelResult[list[LabelMeasures]]):
    """Labels on the source grid, with their origin; see ``LabelResult``.

    Attributes:
        labels, requested_labels, entropies: as for ``LabelResult``.
        bundle, settings, notes, progress, calibration, validation: as for ``TaskResult``.
        scan: the source.
        mirrored: with ``quality_map``, the labels of the mirror image, (i, j, k) on the same grid; see
            ``medvit.inference.mirror_agreement``.

    Examples:
        >>> import medvit
        >>> result = medvit.segment("scan.nii.gz")  # doctest: +SKIP
        >>> result.labels, result.statistics(), result.quality()["rating"]  # doctest: +SKIP
    """

    scan: Scan
    mirrored: NDArray[np.int16] | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        names = ", ".join(label.name for label in self.requested_labels)
        return f"Result({self.bundle.name} {self.bundle.version} on {self.scan!r}: {names})"

    def on_source_slices(self) -> np.ndarray:
        """Return the labels on the source's DICOM slices, (column, row, slice).

        This equals ``array``, except for a tilted or uneven stack, which was resampled: its labels are resampled back
        to the slices.
        """
        return self.array if self.scan.original is None else self._brought_back

    @property
    def intensity_unit(self) -> str:
        """Unit of the image's values: from its headers, else the bundle's unit, else "as stored"."""
        from medvit.io import AS_STORED, stated_unit

        values = self.bundle.facts.values
        return stated_unit(self.scan) or (values.unit if values else AS_STORED)

    def statistics(self) -> list[LabelMeasures]:
        """Return volume, intensity, extent and border contact of each requested label."""
        return self._measures

    @cached_property
    def _brought_back(self) -> np.ndarray:
        from medvit.io.dicom import labels_to_slices

        original = self.scan.original
        assert original is not None
        columns, rows = original.values.shape[:2]
        return labels_to_slices(self.array, original.grid, (columns, rows))

    @cached_property
    def _measures(self) -> list[LabelMeasures]:
        from medvit.reports import measure

        return measure(self.array, self.scan, self.requested_labels)

    def _rate(self) -> dict[str, Any]:
        """Rate the labels by plausible anatomy and the network's uncertainty."""
        from medvit.reports import UncertaintySignals, rate_labels

        signals = UncertaintySignals(self.entropy(), self.agreement(), self.calibration)
        return rate_labels(self.statistics(), self.requested_labels, signals)

    def _imaged(self) -> list[ImagedAnatomy]:
        from medvit.reports import imaged_anatomy

        return [imaged_anatomy(self.scan)]

    def agreement(self) -> dict[str, float] | None:
        """Return the Dice of each label between the image's and its mirror image's labels; None without
        ``quality_map``."""
        return self._agreement

    @cached_property
    def _agreement(self) -> dict[str, float] | None:
        if self.mirrored is None:
            return None
        from medvit.inference import label_agreement

        return label_agreement(self.array, self.mirrored, self.requested_labels)

    def disagreement(self) -> NDArray[np.uint8] | None:
        """Return 1 where the labels of image and mirror image differ, (i, j, k); None without ``quality_map``."""
        if self.mirrored is None:
            return None
        asked = np.isin(self.mirrored, [label.id for label in self.requested_labels])
        differ: NDArray[np.uint8] = (self.array != np.where(asked, self.mirrored, 0)).astype(np.uint8)
        return differ

    def save(
        self,
        folder: str | os.PathLike[str],
        output_types: Sequence[str] = ("nifti",),
        *,
        preview: bool = False,
        statistics: bool = False,
        per_label: bool = False,
        overwrite: bool = False,
    ) -> SavedResult:
        """Write the result to a folder: all files, or none.

        Args:
            folder: folder to create. If it exists and has files, it is refused unless ``overwrite``.
            output_types: any of "nifti", "dicom-seg", "rtstruct", "sr" (with "dicom-seg", which it refers to), "sc",
                "png".
            preview: also write ``preview.png``.
            statistics: also write ``statistics.csv`` (``statistics.json`` is always written).
            per_label: also write one NIfTI per label.
            overwrite: replace an earlier result.

        Raises:
            OutputError: the folder cannot be written or already has files.
            RoundTripError: a written object, read back, differs from its input.
        """
        from medvit.segmentation.save import OutputSettings, save_result

        settings = OutputSettings(
            output_types=tuple(output_types),
            preview=preview,
            statistics=statistics,
            per_label=per_label,
            overwrite=overwrite,
        )
        return save_result(self, folder, settings)
