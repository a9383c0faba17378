"""Checks of type and device for the input of every network; each network checks shapes itself."""

from __future__ import annotations

import torch
from torch import Tensor

from medvit.errors import ImageError, ShapeError

__all__ = ["require_floating_point", "require_tensor"]


def require_tensor(x: object, what: str = "an input") -> None:
    """Refuse an input that is not a tensor.

    Raises:
        ImageError: the input is not a tensor; the message names its type.
    """
    if not isinstance(x, Tensor):
        raise ImageError(
            f"a {type(x).__name__} as {what.partition(' ')[2]}",
            "a torch tensor is needed",
            (
                "Make one with torch.as_tensor(..., dtype=torch.float32), or give the image to medvit.segment and the "
                "like, which prepare it."
            ),
        )


def require_floating_point(x: Tensor, weight: Tensor, what: str = "an input") -> None:
    """Refuse an input whose type or device differs from that of a network's weights.

    Args:
        x: the network's input.
        weight: any of its weights.
        what: name of the input in the message, with its article.

    Raises:
        ImageError: the input is integer or complex.
        ShapeError: another floating-point type (outside of autocast) or another device.
    """
    if not x.is_floating_point():
        raise ImageError(
            f"{what} of {x.dtype}",
            "floating-point numbers in the range the network was trained on are needed",
            "Scale the image first, as the bundle's preprocessing does.",
        )
    if x.dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type):
        raise ShapeError(
            f"{what} of {x.dtype} for weights of {weight.dtype}",
            "they must be one type",
            f"Convert it: .to({weight.dtype}).",
        )
    if x.device != weight.device:
        raise ShapeError(
            f"{what} on {x.device} and weights on {weight.device}",
            "they must be on one device",
            "Move it with .to(device).",
        )
