"""The parts of a segmentation's result that its outputs read, so that no writer imports the result itself."""

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
        """The source."""

    @property
    def requested_labels(self) -> tuple[Label, ...]:
        """The labels asked for."""

    @property
    def array(self) -> np.ndarray:
        """The labels as a plain (i, j, k) array."""

    @property
    def intensity_unit(self) -> str:
        """The unit of the scan's values."""

    def on_source_slices(self) -> np.ndarray:
        """Return the labels on the source's own DICOM slices, (column, row, slice)."""

    def statistics(self) -> list[LabelMeasures]:
        """Return the measures of each requested label."""

    def entropy(self) -> dict[str, float]:
        """Return bits a voxel of each requested label."""

    def agreement(self) -> dict[str, float] | None:
        """Return the Dice of each label between the image's and its mirror image's answer, if both were asked for."""

    def disagreement(self) -> NDArray[np.uint8] | None:
        """Return 1 where the two answers differ, if both were asked for."""
