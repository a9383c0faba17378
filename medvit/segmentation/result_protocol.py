"""Protocol of a segmentation's result as its outputs read it, so that no writer imports the result class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from medvit.reports import RecordedResult

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from medvit.io import Scan
    from medvit.labels import Label, LabelMeasures

__all__ = ["SegmentationResult"]


class SegmentationResult(RecordedResult, Protocol):
    """Labels on the grid of a scan: see ``medvit.Result``."""

    @property
    def scan(self) -> Scan:
        """Scan that was segmented."""

    @property
    def requested_labels(self) -> tuple[Label, ...]:
        """Labels that were requested."""

    @property
    def array(self) -> np.ndarray:
        """Labels as a plain (i, j, k) array."""

    @property
    def intensity_unit(self) -> str:
        """Unit of the scan's values."""

    def on_source_slices(self) -> np.ndarray:
        """Return the labels on the source's DICOM slices, (column, row, slice)."""

    def statistics(self) -> list[LabelMeasures]:
        """Return the measures of each requested label."""

    def entropy(self) -> dict[str, float]:
        """Return the mean bits per voxel of each requested label."""

    def agreement(self) -> dict[str, float] | None:
        """Return the Dice of each label between the labels of image and mirror image; None without ``quality_map``."""

    def disagreement(self) -> NDArray[np.uint8] | None:
        """Return 1 where the labels of image and mirror image differ; None without ``quality_map``."""
