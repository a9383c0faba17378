"""What a restoration gives back: intensities on the source's own grid or a finer one, and how to measure, judge and save them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from medvit.io import Scan
from medvit.restoration.change import Change
from medvit.tasks import TaskResult

if TYPE_CHECKING:
    from monai.data import MetaTensor
    from numpy.typing import NDArray

    from medvit.reports import ImagedAnatomy
    from medvit.tasks import SavedResult

__all__ = ["Restored"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Restored(TaskResult[Change]):
    """A restored image and everything needed to say where it came from; see ``TaskResult``.

    Attributes:
        image: MetaTensor on the CPU, (1, i, j, k) float32 in the source's unit, the grid and affine of ``scan``.
        slices: for a tilted or uneven DICOM stack, the restored slices themselves, (column, row, slice); ``image`` then
            lies on the straight grid around them.
        scan: the source; for a bundle that makes images finer, interpolated onto the grid of the result.
        source_scan: the source as it was given, where ``scan`` is interpolated; else None.
    """

    image: MetaTensor
    slices: NDArray[np.float32] | None = None
    scan: Scan
    source_scan: Scan | None = None

    def __repr__(self) -> str:
        return f"Restored({self.bundle.name} {self.bundle.version} on {self.scan!r})"

    @property
    def array(self) -> NDArray[np.float32]:
        """The image as a plain (i, j, k) array."""
        plain: NDArray[np.float32] = np.asarray(self.image)[0]
        return plain

    def on_source_slices(self) -> NDArray[np.float32]:
        """The image on the source's own slices, (column, row, slice)."""
        return self.array if self.slices is None else self.slices

    def source_on_slices(self) -> NDArray[np.float32]:
        """The source on its own slices, (column, row, slice)."""
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
        """Noise before and after, bias and edges; see ``medvit.restoration.change``."""
        return self._change

    @cached_property
    def _change(self) -> Change:
        from medvit.restoration.change import measure_change

        across, down, _ = self.scan.spacing_mm  # the grid around irregular slices has their pixels
        return measure_change(self.source_on_slices(), self.on_source_slices(), (across, down), self.intensity_unit)

    def _rate(self) -> dict[str, Any]:
        """Rate the image by what changed."""
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
        """Write the result into a folder: all of it, or nothing.

        Args:
            folder: where; created. An existing one with files in it is refused unless ``overwrite``.
            output_types: "nifti", and for a DICOM source "dicom", a derived series.
            preview: also ``preview.png``: before, after and their difference.
            statistics: also ``statistics.csv``, one line a slice (``statistics.json`` is always written).
            maps: also ``maps/difference.nii.gz``, restored minus source.
            overwrite: replace an earlier result.

        Raises:
            OutputError: the folder cannot be written or already holds something.
            RoundTripError: a written object does not read back as what was meant.
        """
        from medvit.restoration.save import RestoredOutput, save_restored

        settings = RestoredOutput(
            output_types=tuple(output_types), preview=preview, statistics=statistics, maps=maps, overwrite=overwrite
        )
        return save_restored(self, folder, settings)
