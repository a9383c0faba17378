"""Inference with a network that takes the whole image at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from medvit.inference.monai_inferer import register_inferer

__all__ = ["SimpleInferer"]


@register_inferer
class SimpleInferer:
    """A MONAI inferer that calls the network once, with the whole image.

    Examples:
        >>> import torch
        >>> from medvit.inference import SimpleInferer
        >>> SimpleInferer()(torch.ones(1, 1, 2), lambda image: image + 1)
        tensor([[[2., 2.]]])
    """

    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """Return the network's output for an image (batch, channel, *spatial)."""
        return network(inputs, *args, **kwargs)
