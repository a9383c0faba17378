"""OmniShift, the depthwise convolution at the start of every mix of Restore-RWKV, for training and for inference."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["FusedShift", "OmniShift"]


class OmniShift(nn.Module):
    """Depthwise mix of each pixel with its neighbours: α0 x + α1 (1x1) + α2 (3x3) + α3 (5x5) (paper, eq. 5).

    ``conv5x5_reparam`` is the sum of the four as one kernel. Published checkpoints contain it, often out of date, so
    the forward pass of this class does not use it.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1x1 = nn.Conv2d(dim, dim, 1, groups=dim, bias=False)
        self.conv3x3 = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, bias=False)
        self.conv5x5 = nn.Conv2d(dim, dim, 5, padding=2, groups=dim, bias=False)
        self.alpha = nn.Parameter(torch.randn(4))
        self.conv5x5_reparam = nn.Conv2d(dim, dim, 5, padding=2, groups=dim, bias=False).requires_grad_(False)

    def kernel(self) -> Tensor:
        """Return the four branches as one kernel, (channel, 1, 5, 5)."""
        one = F.pad(self.conv1x1.weight, (2, 2, 2, 2))
        three = F.pad(self.conv3x3.weight, (1, 1, 1, 1))
        identity = F.pad(torch.ones_like(self.conv1x1.weight), (2, 2, 2, 2))
        a = self.alpha
        return a[0] * identity + a[1] * one + a[2] * three + a[3] * self.conv5x5.weight

    def forward(self, x: Tensor) -> Tensor:
        """Mix (batch, channel, height, width); the shape is unchanged."""
        # one kernel from the branches costs a few thousand products; four convolutions would need memory for four images
        return F.conv2d(x, self.kernel(), padding=2, groups=x.shape[1])


class FusedShift(nn.Module):
    """An OmniShift for inference, with its four branches summed into one kernel."""

    def __init__(self, shift: OmniShift) -> None:
        super().__init__()
        self.conv5x5_reparam = copy.deepcopy(shift.conv5x5_reparam)
        with torch.no_grad():
            self.conv5x5_reparam.weight.copy_(shift.kernel())

    def kernel(self) -> Tensor:
        """Return the summed kernel, (channel, 1, 5, 5)."""
        return self.conv5x5_reparam.weight

    def forward(self, x: Tensor) -> Tensor:
        """Mix (batch, channel, height, width); the shape is unchanged."""
        return self.conv5x5_reparam(x)  # type: ignore[no-any-return]
