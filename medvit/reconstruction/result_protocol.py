"""The parts of a reconstruction's result that its outputs read, so that no writer imports the result itself."""

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
        """The radiographs, as they were opened."""

    @property
    def pictures(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The radiographs on the network's field, (row, column)."""

    @property
    def field_coverage(self) -> tuple[float, float]:
        """The share of the field that each radiograph shows."""

    @property
    def reprojections(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Millimetres of labelled voxels along the rays of each radiograph."""

    @property
    def requested_labels(self) -> tuple[Label, ...]:
        """The labels asked for."""

    @property
    def array(self) -> np.ndarray:
        """The labels as a plain (x, y, z) array."""

    @property
    def affine(self) -> NDArray[np.float64]:
        """Voxel index to RAS+ mm."""

    @property
    def surfaces(self) -> Mapping[str, Surface]:
        """The closed surface of each label that was found, by its name."""

    @property
    def entropy_map(self) -> NDArray[np.float32] | None:
        """Bits of every voxel."""

    def statistics(self) -> list[ShapeMeasures]:
        """Return the measures of each label."""

    def entropy(self) -> dict[str, float]:
        """Return bits a voxel of each label."""

    def consistency(self) -> dict[str, float]:
        """Return how well the labels, projected again, agree with each view."""
