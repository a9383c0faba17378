"""nnU-Net's resampling: splines along each axis, or in planes with the nearest plane along a coarse axis ("separate z").

A spline interpolation with half-pixel centres is linear and separable, so each axis is one matrix product. The matrix
of an axis is what ``scipy.ndimage.zoom`` makes of the unit vectors; nnU-Net calls the same function by way of
``skimage.transform.resize``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Resampling", "axis_matrix", "coarse_axis", "nearest_index", "new_size", "resample"]

_COARSE = 3.0
"""Ratio of the largest to the smallest spacing above which the planes are resampled one by one."""


@dataclass(frozen=True, kw_only=True)
class Resampling:
    """Settings of a resampling, as the plans state them.

    Attributes:
        order: order of the splines, 0 to 5.
        order_z: order along a coarse axis; only 0, the nearest plane, occurs.
        separate_z: True or False to force or forbid separate planes; None decides by the spacing.
        kind: "spline", or "none" where the image keeps its grid.

    Examples:
        >>> from medvit.interop.nnunet.resampling import Resampling
        >>> Resampling(order=3).separate_z is None
        True
    """

    order: int
    order_z: int = 0
    separate_z: bool | None = None
    kind: str = "spline"


def new_size(size: Sequence[int], spacing: Sequence[float], wanted: Sequence[float]) -> tuple[int, ...]:
    """Compute the size of an image after a change of its spacing."""
    return tuple(round(old / new * n) for old, new, n in zip(spacing, wanted, size, strict=True))


def coarse_axis(settings: Resampling, spacing: Sequence[float], wanted: Sequence[float]) -> int | None:
    """Return the axis whose planes are resampled one by one; None where all axes are resampled together.

    The current spacing decides, then the wanted one. Two or three equally coarse axes give None.
    """
    if settings.separate_z is False:
        return None
    by: Sequence[float] | None = None
    if settings.separate_z:
        by = spacing
    else:
        by = next((one for one in (spacing, wanted) if max(one) / min(one) > _COARSE), None)
    if by is None:
        return None
    coarsest = [axis for axis, side in enumerate(by) if max(by) / side == 1]
    return coarsest[0] if len(coarsest) == 1 else None


@lru_cache(maxsize=32)
def axis_matrix(old: int, new: int, order: int) -> NDArray[np.float64]:
    """Return the matrix (new, old) that interpolates ``old`` samples at ``new`` places of the same extent."""
    from scipy.ndimage import zoom

    made: NDArray[np.float64] = zoom(np.eye(old), (new / old, 1), order=order, mode="nearest", grid_mode=True)
    return made


def nearest_index(old: int, new: int) -> NDArray[np.int64]:
    """Return for each of ``new`` planes the nearest of ``old`` planes of the same extent."""
    place = old / new * (np.arange(new) + 0.5) - 0.5
    made: NDArray[np.int64] = np.clip(np.floor(place + 0.5), 0, old - 1).astype(np.int64)
    return made


def resample(image: Tensor, size: Sequence[int], settings: Resampling, coarse: int | None) -> Tensor:
    """Resample (channel, *spatial) float32 to a size; values stay in the range of the input, as nnU-Net clips them.

    Args:
        image: the image.
        size: the wanted size.
        settings: order of the splines.
        coarse: axis with separate planes, or None.

    Returns:
        (channel, *size); the image itself where it has that size.

    Examples:
        >>> import torch
        >>> from medvit.interop.nnunet.resampling import Resampling, resample
        >>> resample(torch.tensor([[[[0.0, 1.0]]]]), (1, 1, 4), Resampling(order=1), None)
        tensor([[[[0.0000, 0.2500, 0.7500, 1.0000]]]])
    """
    if tuple(image.shape[1:]) == tuple(size):
        return image
    return torch.stack([_channel(one, size, settings.order, coarse) for one in image])


def _channel(image: Tensor, size: Sequence[int], order: int, coarse: int | None) -> Tensor:
    within = [axis for axis in range(image.ndim) if axis != coarse]
    lowest, highest = image.amin(within, keepdim=True), image.amax(within, keepdim=True)
    made = image
    for axis in within:
        old, new = image.shape[axis], int(size[axis])
        if old == new:
            continue
        if order == 0:
            made = made.index_select(axis, torch.from_numpy(nearest_index(old, new)))
        else:
            matrix = torch.from_numpy(axis_matrix(old, new, order)).to(made.dtype)
            made = torch.tensordot(matrix, made, dims=([1], [axis])).movedim(0, axis)
    made = torch.minimum(torch.maximum(made, lowest), highest)
    if coarse is not None and image.shape[coarse] != int(size[coarse]):
        made = made.index_select(coarse, torch.from_numpy(nearest_index(image.shape[coarse], int(size[coarse]))))
    return made.contiguous()
