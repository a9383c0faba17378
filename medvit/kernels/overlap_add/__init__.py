"""Overlapping windows blended into one image."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from medvit.errors import ShapeError
from medvit.kernels.overlap_add.blend import Blend
from medvit.kernels.overlap_add.reference import overlap_add_reference
from medvit.kernels.overlap_add.stream import LabelStream, argmax_of, sigmoid_above

__all__ = ["Blend", "LabelStream", "argmax_of", "overlap_add", "overlap_add_reference", "sigmoid_above"]


def overlap_add(windows: Tensor, origins: Tensor, size: Sequence[int], weight: Tensor) -> Tensor:
    """The weighted mean of overlapping windows at each voxel of an image.

    Where windows come one after another, ``Blend`` takes them so; ``LabelStream`` too, and keeps labels in place of channels.

    Args:
        windows: (window, channel, *roi) float.
        origins: (window, axis) integer: each window's first voxel.
        size: of the image in voxels, (axis,).
        weight: (*roi), positive, of the type in which sums are kept.

    Returns:
        (channel, *size) of the weight's type.

    Raises:
        ShapeError: sizes that do not fit each other, or a voxel that no window covers.
    """
    if windows.ndim != weight.ndim + 2 or tuple(origins.shape) != (len(windows), weight.ndim):
        raise ShapeError(
            f"Found windows of {tuple(windows.shape)}, origins of {tuple(origins.shape)} and a weight of {tuple(weight.shape)}; "
            "(window, channel, *roi), (window, axis) and (*roi) are needed. Bring them into that form."
        )
    blend = Blend(size, windows.shape[1], weight)
    for window, origin in zip(windows, origins.tolist(), strict=True):
        blend.add(window, origin)
    return blend.mean()[0]
