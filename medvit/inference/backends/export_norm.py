"""A network as graph compilers like it: the same numbers from operators that they know how to fuse."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

__all__ = ["as_recorded"]


def as_recorded(network: nn.Module) -> nn.Module:
    """A copy of a network whose instance norms are written out, which OpenVINO gathers into one operator.

    What ``torch.export`` makes of ``nn.InstanceNorm3d``, a batch norm over reshaped tensors, costs OpenVINO two passes of
    reductions, two reorderings of the tensor and a third digit of agreement.
    """
    written = copy.deepcopy(network)
    for module in written.modules():
        if isinstance(module, nn.modules.instancenorm._InstanceNorm) and not module.track_running_stats:
            module.__class__ = _Norm
    return written


class _Norm(nn.modules.instancenorm._InstanceNorm):
    """(x - mean) / sqrt(variance + eps), over space, channel by channel."""

    def forward(self, x: Tensor) -> Tensor:
        space = tuple(range(2, x.ndim))
        centred = x - x.mean(space, keepdim=True)
        normal = centred / torch.sqrt((centred * centred).mean(space, keepdim=True) + self.eps)
        if not self.affine:
            return normal
        shape = (1, -1, *(1 for _ in space))
        return normal * self.weight.view(shape) + self.bias.view(shape)
