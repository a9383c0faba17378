"""Result of a restoration: intensities on the source grid or a finer one, with statistics, rating and saving."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from medvit.io import Scan
from medvit.restoration.change import Change
from medvit.tasks import ImageField, TaskResult, held_image

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medvit.reports import ImagedAnatomy
    from medvit.tasks import SavedResult

__all__ = ["Restored"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Restored(TaskResult[Change]):
    """A restored image with its origin; see ``TaskResult``.

    Attributes:
        bundle, settings, notes, progress, calibration, validation: as for ``TaskResult``.
        image: MetaTensor on the CPU, (1, i, j, k) float32 in the source's unit, with the grid and affine of ``scan``.
        slices: for a tilted or uneven DICOM stack, the restored slices, (column, row, slice); ``image`` is then on a
            regular grid around them.
        scan: the source; for a super-resolution bundle, interpolated to the grid of the result.
        source_scan: the original source if ``scan`` is interpolated, else None.

    Examples:
        >>> import medvit
        >>> result = medvit.restore("series")  # doctest: +SKIP
        >>> result.image, result.statistics().noise_reduction_percent  # doctest: +SKIP
    """

    image: ImageField = ImageField()  # noqa: RUF009  # a descriptor, not a default
    slices: NDArray[np.float32] | None = None
    scan: Scan
    source_scan: Scan | None = None

    def __repr__(self) -> str:
        return f"Restored({self.bundle.name} {self.bundle.version} on {self.scan!r})"

    @property
    def array(self) -> NDArray[np.float32]:
        """Image as a plain (i, j, k) array."""
        plain: NDArray[np.float32] = np.asarray(held_image(self, "image"))[0]
        return plain

    def on_source_slices(self) -> NDArray[np.float32]:
        """Return the image on the source's slices, (column, row, slice)."""
        return self.array if self.slices is None else self.slices

    def source_on_slices(self) -> NDArray[np.float32]:
        """Return the source on its own slices, (column, row, slice)."""
        original = self.scan.original
        values: NDArray[np.float32] = self.scan.array[0] if original is None else original.values
        return values

    @property
    def intensity_unit(self) -> str:
        """Unit of the image's values: the bundle's unit where the source has it too, else "as stored"."""
        values = self.bundle.facts.values
        if values is None or (values.unit == "HU" and self.scan.modality is not None and not self.scan.hounsfield):
            return "as stored"
        return values.unit

    def statistics(self) -> Change:
        """Return noise before and after, shift and edges; see ``medvit.restoration.change``."""
        return self._change

    @cached_property
    def _change(self) -> Change:
        from medvit.restoration.change import measure_change

        across, down, _ = self.scan.spacing_mm  # the grid around irregular slices has the same pixel size
        return measure_change(self.source_on_slices(), self.on_source_slices(), (across, down), self.intensity_unit)

    def _rate(self) -> dict[str, Any]:
        """Rate the image by its measured change."""
        from medvit.restoration.rating import judge_change

        return judge_change(self.statistics(), self.calibration, upsampled=self.source_scan is not None)

    def _imaged(self) -> list[ImagedAnatomy]:
        from medvit.reports import imaged_anatomy

        return [imaged_anatomy(self.source_scan or self.scan)]

    def save(
        self,
        folder: str | os.PathLike[str],
        output_types: Sequence[str] = ("nifti",),
        *,
        preview: bool = False,
        statistics: bool = False,
        maps: bool = False,
        overwrite: bool = False,
    ) -> SavedResult:
        """Write the result to a folder: all files, or none.

        Args:
            folder: folder to create. If it exists and has files, it is refused unless ``overwrite``.
            output_types: "nifti", and for a DICOM source "dicom", a derived series.
            preview: also write ``preview.png``: before, after and their difference.
            statistics: also write ``statistics.csv``, one line per slice (``statistics.json`` is always written).
            maps: also write ``maps/difference.nii.gz``, restored minus source.
            overwrite: replace an earlier result.

        Raises:
            OutputError: the folder cannot be written or already has files.
            RoundTripError: a written object, read back, differs from its input.
        """
        from medvit.restoration.save import RestoredOutput, save_restored

        settings = RestoredOutput(
            output_types=tuple(output_types), preview=preview, statistics=statistics, maps=maps, overwrite=overwrite
        )
        return save_restored(self, folder, settings)
