"""Rewrite of a network for graph compilers: the same numbers from operators that they can fuse."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

__all__ = ["as_recorded"]


def as_recorded(network: nn.Module) -> nn.Module:
    """Copy a network with its instance norms written as basic operators, which OpenVINO fuses into one.

    ``torch.export`` turns ``nn.InstanceNorm3d`` into a batch norm over reshaped tensors. In OpenVINO that costs two
    passes of reductions, two reorderings of the tensor, and accuracy in the third digit.
    """
    written = copy.deepcopy(network)
    for module in written.modules():
        if isinstance(module, nn.modules.instancenorm._InstanceNorm) and not module.track_running_stats:
            module.__class__ = _Norm
    return written


class _Norm(nn.modules.instancenorm._InstanceNorm):
    """Instance norm (x - mean) / sqrt(variance + eps) over the spatial axes of each channel."""

    def forward(self, x: Tensor) -> Tensor:
        space = tuple(range(2, x.ndim))
        centred = x - x.mean(space, keepdim=True)
        normal = centred / torch.sqrt((centred * centred).mean(space, keepdim=True) + self.eps)
        if not self.affine:
            return normal
        shape = (1, -1, *(1 for _ in space))
        return normal * self.weight.view(shape) + self.bias.view(shape)
