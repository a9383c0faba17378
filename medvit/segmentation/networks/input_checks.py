"""Check of the input of the segmentation networks."""

from __future__ import annotations

import torch
from torch import Tensor

from medvit.errors import ImageError, ShapeError
from medvit.kernels.tensor_checks import require_floating_point, require_tensor
from medvit.kernels.tracing import has_concrete_values

__all__ = ["check_input"]

_AXES = {4: "batch, channel, height, width", 5: "batch, channel, depth, height, width"}


def check_input(x: Tensor, rank: int, channels: int, weight: Tensor) -> None:
    """Refuse an input that a network of this rank and channel count cannot take.

    Args:
        x: (batch, channel, *spatial), float.
        rank: 4 for pictures, 5 for volumes.
        channels: number of channels that the network takes.
        weight: any of the network's weights; the input must have its device and, outside of autocast, its type.

    Raises:
        ShapeError: another rank, channel count, type or device, or an empty side.
        ImageError: not a tensor, an integer type, NaN or infinite values.
    """
    require_tensor(x)
    if x.ndim != rank or x.shape[1] != channels or 0 in x.shape:
        raise ShapeError(
            f"an input of shape {tuple(x.shape)}",
            f"({_AXES[rank]}) with {channels} channel(s) is needed",
            "Add the missing axes, or build the network for this many channels.",
        )
    require_floating_point(x, weight)
    # while a graph is recorded, tensors hold no values to check
    if has_concrete_values() and not bool(torch.isfinite(x).all()):
        raise ImageError(
            f"{int((~torch.isfinite(x)).sum())} NaN or infinite values in the input",
            "all must be finite",
            "Replace them before the network sees the image.",
        )
