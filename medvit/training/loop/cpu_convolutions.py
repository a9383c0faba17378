"""3-D convolutions on a CPU, done by oneDNN where PyTorch would fall back to its own slow ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medvit.bundles import has_surroundings

__all__ = ["FoldedConv3d", "speed_up_convolutions"]

_ONEDNN_FROM = 20480
"""PyTorch leaves a batch of one to ``slow_conv3d`` up to this product of channels and the first two sides (2.13,
``ConvParams::use_mkldnn`` in ATen/native/Convolution.cpp). That was tuned for pictures; on volumes it costs up to tenfold."""


def speed_up_convolutions(module: nn.Module) -> None:
    """Let the 3-D convolutions of a module train faster on a CPU; what they compute stays the same but for rounding.

    Kernels are stored channels last, in which oneDNN finds their gradient in about half the time, and small volumes are
    folded (``FoldedConv3d``). Names, shapes and values of all tensors stay.

    Args:
        module: changed in place.
    """
    for convolution in module.modules():
        if type(convolution) is nn.Conv3d and _plain(convolution):
            convolution.__class__ = FoldedConv3d
            convolution.weight.data = convolution.weight.data.contiguous(memory_format=torch.channels_last_3d)


class FoldedConv3d(nn.Conv3d):
    """A convolution of stride 1 that gives one small volume to oneDNN as a batch of two halves, which it does not refuse."""

    def forward(self, input: Tensor) -> Tensor:
        """(batch, channel, i, j, k), float; the same sides out."""
        batch, channels, i, j, _ = input.shape
        if batch > 1 or channels * i * j > _ONEDNN_FROM or input.device.type != "cpu":
            return super().forward(input)
        half, margin = (i + 1) // 2, self.kernel_size[0] // 2
        sides = [(side // 2, side // 2) for side in self.kernel_size]
        sides[0] = (margin, margin + i % 2)  # the halves of an odd side must be of one size
        padded = F.pad(input, [p for side in reversed(sides) for p in side])
        halves = torch.cat([padded[:, :, : half + 2 * margin], padded[:, :, half:]])
        return torch.cat(F.conv3d(halves, self.weight, self.bias).chunk(2), 2)[:, :, :i]


def _plain(convolution: nn.Conv3d) -> bool:
    """Whether it looks around its voxel, at every voxel, within the volume or zeros."""
    around = tuple(side // 2 for side in convolution.kernel_size)
    return (
        has_surroundings(convolution.kernel_size)
        and convolution.padding == around
        and convolution.padding_mode == "zeros"
        and set(convolution.stride) == set(convolution.dilation) == {1}
        and convolution.groups == 1
    )
