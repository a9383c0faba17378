"""Display frames: axes shared by all volumes of a window, and volumes interpolated onto them for display."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvit_napari.errors import LayerError

__all__ = ["TO_DISPLAY", "Frame", "Interpolated", "own_data"]

TO_DISPLAY = np.array([[0.0, 0.0, -1.0], [0.0, -1.0, 0.0], [-1.0, 0.0, 0.0]])
"""Matrix from RAS+ mm to (inferior, posterior, left) mm."""


@dataclass(frozen=True, eq=False)
class Frame:
    """Display axes, fixed in the patient.

    Attributes:
        axes: (3, 3); row n is the unit vector in RAS+ along napari's axis n.
        centre: RAS+ mm; the point whose display coordinates are its (inferior, posterior, left) coordinates.
    """

    axes: NDArray[np.float64]
    centre: NDArray[np.float64]

    def shown(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Convert points (n, 3) in RAS+ mm to display mm, (n, 3)."""
        moved: NDArray[np.float64] = (np.atleast_2d(points) - self.centre) @ self.axes.T + self.centre @ TO_DISPLAY.T
        return moved

    def patient(self, shown: NDArray[np.float64]) -> NDArray[np.float64]:
        """Convert display mm (n, 3) to RAS+ mm, (n, 3)."""
        back: NDArray[np.float64] = (np.atleast_2d(shown) - self.centre @ TO_DISPLAY.T) @ self.axes + self.centre
        return back


class Interpolated:
    """Array for napari: a volume interpolated onto the axes of a frame, computed block by block on request.

    ``source`` holds the original volume; this array is read-only.

    Args:
        source: the volume along its own axes; see ``Canonical.show``.
        to_source: 4x4 matrix from an index of this array to an index of ``source``.
        shape: number of voxels along each axis of this array.
        order: 1 for images, 0 for labels.
        outside: value outside the volume.
    """

    ndim = 3

    def __init__(
        self, source: Any, to_source: NDArray[np.float64], shape: tuple[int, int, int], order: int, outside: float
    ) -> None:
        self.source, self.shape, self.dtype = source, shape, np.dtype(source.dtype)
        self._matrix, self._offset = to_source[:3, :3], to_source[:3, 3]
        self._order, self._outside = order, outside
        self.size = int(np.prod(shape))
        self.nbytes = self.size * self.dtype.itemsize

    def __getitem__(self, key: Any) -> Any:
        parts = key if isinstance(key, tuple) else (key,)
        if Ellipsis in [part for part in parts if part is ...]:
            at = parts.index(...)
            parts = (*parts[:at], *[slice(None)] * (4 - len(parts)), *parts[at + 1 :])
        parts = (*parts, *[slice(None)] * (3 - len(parts)))
        if not all(isinstance(part, (int, np.integer, slice)) for part in parts):
            return np.asarray(self)[key]
        ranges = [
            range(*part.indices(n)) if isinstance(part, slice) else range(int(part) % n, int(part) % n + 1)
            for part, n in zip(parts, self.shape, strict=True)
        ]
        block = self._block(ranges)
        return block[tuple(slice(None) if isinstance(part, slice) else 0 for part in parts)]

    def _block(self, ranges: list[range]) -> NDArray[Any]:
        from scipy.ndimage import affine_transform

        size = tuple(len(r) for r in ranges)
        if 0 in size:
            return np.zeros(size, self.dtype)
        values = getattr(
            self.source, "loaded", self.source
        )  # for a volume that is still being read, the part read so far
        offset = self._offset + self._matrix @ [r.start for r in ranges]
        steps = self._matrix * [r.step for r in ranges]
        how = {"order": self._order, "mode": "constant", "cval": self._outside, "prefilter": False}
        made: NDArray[Any] = affine_transform(values, steps, offset, size, output=self.dtype, **how)
        return made

    def __setitem__(self, key: Any, value: Any) -> None:
        raise LayerError(
            "labels shown interpolated along another volume's axes",
            "they can be painted on along their own axes only",
            "Choose their image in the widget Look and press 'Show along its axes'.",
        )

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if hasattr(self.source, "scan"):
            self.source.scan()  # waits until all of it has been read
        return np.asarray(self[(slice(None),) * 3], dtype=dtype)


def own_data(layer: Any) -> Any:
    """Return a layer's voxels along the volume's own axes, even if the layer is shown interpolated."""
    return layer.data.source if isinstance(layer.data, Interpolated) else layer.data
