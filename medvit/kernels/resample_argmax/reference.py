"""Reference of ``resample_argmax``: interpolate every class at full resolution, then take the argmax."""

from __future__ import annotations

import torch
from torch import Tensor

from medvit.kernels.resample_argmax.axes import Axis

__all__ = ["resample_argmax_reference"]


def resample_argmax_reference(logits: Tensor, x: Axis, y: Axis, z: Axis) -> Tensor:
    """Compute the class with the largest trilinearly interpolated logit within the box, in double precision; int64."""
    value = logits.double()
    for axis, at in enumerate((x, y, z), 1):
        shape = [1] * value.ndim
        shape[axis] = -1
        weight = at.weight.double().view(shape).to(value.device)
        low, high = (value.index_select(axis, i.to(value.device)) for i in (at.low, at.high))
        value = low * (1 - weight) + high * weight
    return torch.argmax(value, 0)
