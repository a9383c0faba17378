"""Faster 3-D convolutions on a CPU, by oneDNN where PyTorch would use its own slow implementation."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medvit.bundles import has_surroundings

__all__ = ["FoldedConv3d", "speed_up_convolutions"]

_ONEDNN_FROM = 20480
"""Product of channels and the first two sides up to which PyTorch uses ``slow_conv3d`` for a batch of one (2.13,
``ConvParams::use_mkldnn`` in ATen/native/Convolution.cpp). This limit suits pictures; on volumes it is up to ten times
slower."""


def speed_up_convolutions(module: nn.Module) -> None:
    """Make the 3-D convolutions of a module train faster on a CPU; results are equal except for rounding.

    Kernels are stored channels last, for which oneDNN computes their gradient in about half the time, and small volumes
    are folded (``FoldedConv3d``). Names, shapes and values of all tensors are unchanged.

    Args:
        module: changed in place.
    """
    for convolution in module.modules():
        if type(convolution) is nn.Conv3d and _plain(convolution):
            convolution.__class__ = FoldedConv3d
            convolution.weight.data = convolution.weight.data.contiguous(memory_format=torch.channels_last_3d)


class FoldedConv3d(nn.Conv3d):
    """A convolution of stride 1 that passes one small volume to oneDNN as a batch of two halves, which PyTorch
    allows."""

    def forward(self, input: Tensor) -> Tensor:
        """Convolve (batch, channel, i, j, k), float; the sides are unchanged."""
        batch, channels, i, j, _ = input.shape
        if batch > 1 or channels * i * j > _ONEDNN_FROM or input.device.type != "cpu":
            return super().forward(input)
        half, margin = (i + 1) // 2, self.kernel_size[0] // 2
        sides = [(side // 2, side // 2) for side in self.kernel_size]
        sides[0] = (margin, margin + i % 2)  # an odd side is padded, so that both halves have one size
        padded = F.pad(input, [p for side in reversed(sides) for p in side])
        halves = torch.cat([padded[:, :, : half + 2 * margin], padded[:, :, half:]])
        return torch.cat(F.conv3d(halves, self.weight, self.bias).chunk(2), 2)[:, :, :i]


def _plain(convolution: nn.Conv3d) -> bool:
    """Return True for an odd kernel with "same" zero padding, stride 1, no dilation and no groups."""
    around = tuple(side // 2 for side in convolution.kernel_size)
    return (
        has_surroundings(convolution.kernel_size)
        and convolution.padding == around
        and convolution.padding_mode == "zeros"
        and set(convolution.stride) == set(convolution.dilation) == {1}
        and convolution.groups == 1
    )
