"""Swipe comparison of two images on one grid, separated by a movable line: before and after a restoration. It needs no
Qt.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvit_napari.errors import LayerError
from medvit_napari.looking.alignment import relation
from medvit_napari.reading.layer_info import image_of, place_of
from medvit_napari.reading.layers import LayerTuple

__all__ = ["Swipe", "swipe_layer"]


class Swipe:
    """Array for napari with the first image left of a line and the second right of it, on any plane.

    Args:
        first, second: arrays of one shape, (inferior, posterior, left).
        share: position of the line, from 0 (left) to 1 (right).
    """

    def __init__(self, first: Any, second: Any, share: float = 0.5) -> None:
        self._pair = first, second
        self.share = share
        self.shape: tuple[int, ...] = tuple(int(n) for n in first.shape)
        self.dtype = np.dtype(np.float32)
        self.ndim, self.size = len(self.shape), int(np.prod(self.shape))
        self.nbytes = self.size * self.dtype.itemsize

    def __getitem__(self, key: Any) -> NDArray[np.float32]:
        parts = key if isinstance(key, tuple) else (key,)
        parts += (slice(None),) * (self.ndim - len(parts))
        first, second = (np.asarray(image[parts], dtype=np.float32) for image in self._pair)
        across = max((n for n, part in enumerate(parts) if isinstance(part, slice)), default=self.ndim - 1)
        left = np.arange(self.shape[across])[parts[across]] < round(self.share * self.shape[across])
        parted: NDArray[np.float32] = np.where(left, first, second)
        return parted

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[(slice(None),) * self.ndim], dtype=dtype)


def swipe_layer(first: Any, second: Any) -> LayerTuple:
    """Make a layer that compares two image layers.

    Raises:
        LayerError: the layers are not two grey images on one grid, or have different frames of reference.
    """
    a, b = image_of(first), image_of(second)
    here, there = place_of(a), place_of(b)
    if here is not None and there is not None and relation(here, there) == "other":
        raise LayerError(
            f"{a.name!r} and {b.name!r} with different frames of reference",
            "a position in one does not apply to the other",
            "Choose two images of one frame of reference.",
        )
    alike = a is not b and a.ndim == b.ndim == 3 and tuple(a.data.shape) == tuple(b.data.shape)
    if not alike or not np.allclose(a.scale, b.scale) or not np.allclose(a.translate, b.translate):
        raise LayerError(
            f"{a.name!r} and {b.name!r}",
            "two grey volumes on one grid are needed",
            "Choose an image and its restored one.",
        )
    return Swipe(a.data, b.data), {
        "name": f"{a.name} | {b.name}"[:80],
        "contrast_limits": tuple(a.contrast_limits),
        "colormap": a.colormap.name,
        "scale": tuple(a.scale),
        "translate": tuple(a.translate),
        "units": a.units,
        "axis_labels": a.axis_labels,
    }, "image"  # fmt: skip
