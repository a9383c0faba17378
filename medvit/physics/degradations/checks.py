"""Checks of the images and parameters of degradations."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medvit.errors import ImageError, ShapeError

__all__ = ["checked_image", "require", "slices_of"]


def require(ok: bool, name: str, value: object, needed: str) -> None:
    """Refuse an invalid physical parameter.

    Raises:
        ShapeError: ``ok`` is False or the value is not finite; the message names the parameter, its value and what is
            needed.
    """
    numbers = [x for x in (value if isinstance(value, tuple) else (value,)) if isinstance(x, float)]
    if not ok or not all(math.isfinite(x) for x in numbers):
        raise ShapeError(f"{name} = {value}", f"{needed} is needed", "Correct this parameter of the degradation.")


def checked_image(image: ArrayLike, spacing_mm: Sequence[float]) -> tuple[NDArray[np.float32], tuple[float, ...]]:
    """Return the image as float32 and the voxel side of each of its axes.

    Raises:
        ShapeError: the image is not 2-D or 3-D or has no voxels, or the spacing does not match it.
        ImageError: NaN or infinite values.
    """
    array = np.asarray(image)
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise ShapeError(
            f"an image of shape {array.shape}",
            "(i, j) or (i, j, k) with at least one voxel is needed",
            "Take off channel and batch axes first.",
        )
    sides = tuple(float(s) for s in spacing_mm)
    if len(sides) != array.ndim or not all(math.isfinite(s) and s > 0 for s in sides):
        raise ShapeError(
            f"a spacing of {sides} mm for an image of {array.ndim} axes",
            "one positive number for each is needed",
            "Give the voxel sides in millimetres.",
        )
    if not np.issubdtype(array.dtype, np.number) or np.iscomplexobj(array) or not np.isfinite(array).all():
        raise ImageError(
            "values that are not finite real numbers",
            "all must be finite",
            "Replace them (for CT outside the field of view, -1024).",
        )
    return array.astype(np.float32), sides


def slices_of(volume: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a (slice, i, j) view of (i, j) or (i, j, k); slices are along k."""
    return volume[None] if volume.ndim == 2 else np.moveaxis(volume, 2, 0)
