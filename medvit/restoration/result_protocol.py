"""Protocol of a restoration's result as its outputs read it, so that no writer imports the result class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from medvit.reports import RecordedResult

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from medvit.io import Scan
    from medvit.restoration.change import Change

__all__ = ["RestorationResult"]


class RestorationResult(RecordedResult, Protocol):
    """A restored image beside its source: see ``medvit.Restored``."""

    @property
    def scan(self) -> Scan:
        """Source on the grid of the image."""

    @property
    def source_scan(self) -> Scan | None:
        """Original source, if ``scan`` is interpolated from it."""

    @property
    def array(self) -> NDArray[np.float32]:
        """Image as a plain (i, j, k) array."""

    @property
    def intensity_unit(self) -> str:
        """Unit of the image's values."""

    def on_source_slices(self) -> NDArray[np.float32]:
        """Return the image on the source's slices, (column, row, slice)."""

    def statistics(self) -> Change:
        """Return the measured change."""
