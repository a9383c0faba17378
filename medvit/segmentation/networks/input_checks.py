"""What every network here asks of its input, in one place."""

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
        channels: channels the network was built for.
        weight: any of the network's weights; the input must have its type, outside of autocast, and its device.

    Raises:
        ShapeError: another rank, channel count, type or device, or an empty side.
        ImageError: no tensor, whole numbers, NaN or infinite values.
    """
    require_tensor(x)
    if x.ndim != rank or x.shape[1] != channels or 0 in x.shape:
        raise ShapeError(
            f"an input of shape {tuple(x.shape)}",
            f"({_AXES[rank]}) with {channels} channel(s) is needed",
            "Add the missing axes, or build the network for this many channels.",
        )
    require_floating_point(x, weight)
    # a graph that is being recorded holds no numbers to look at
    if has_concrete_values() and not bool(torch.isfinite(x).all()):
        raise ImageError(
            f"{int((~torch.isfinite(x)).sum())} NaN or infinite values in the input",
            "all must be finite",
            "Replace them before the network sees the image.",
        )
