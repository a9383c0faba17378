"""Protocol of a reconstruction's result as its outputs read it, so that no writer imports the result class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from medvit.reports import RecordedResult

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from medvit.io import Surface
    from medvit.labels import Label
    from medvit.reconstruction.statistics import ShapeMeasures
    from medvit.reconstruction.views import View

__all__ = ["ReconstructionResult"]


class ReconstructionResult(RecordedResult, Protocol):
    """Labels reconstructed from two views, and their surfaces: see ``medvit.Reconstructed``."""

    @property
    def views(self) -> tuple[View, View]:
        """The opened radiographs."""

    @property
    def pictures(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Radiographs on the network's field of view, (row, column)."""

    @property
    def field_coverage(self) -> tuple[float, float]:
        """Share of the field of view that each radiograph shows."""

    @property
    def reprojections(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Length in mm of the ray within labelled voxels for each pixel of each radiograph."""

    @property
    def requested_labels(self) -> tuple[Label, ...]:
        """Labels that were requested."""

    @property
    def array(self) -> np.ndarray:
        """Labels as a plain (x, y, z) array."""

    @property
    def affine(self) -> NDArray[np.float64]:
        """Affine from voxel index to RAS+ mm."""

    @property
    def surfaces(self) -> Mapping[str, Surface]:
        """Closed surface of each label that was found, by label name."""

    @property
    def entropy_map(self) -> NDArray[np.float32] | None:
        """Bits of every voxel."""

    def statistics(self) -> list[ShapeMeasures]:
        """Return the measures of each label."""

    def entropy(self) -> dict[str, float]:
        """Return the mean bits per voxel of each label."""

    def consistency(self) -> dict[str, float]:
        """Return the agreement of each view with the labels projected again."""
