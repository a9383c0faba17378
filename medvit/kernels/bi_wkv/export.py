"""Bi-WKV for exported graphs: the prefix sums of ``prefix_sum.py`` without gradients, in few plain operators."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["forward"]

_NOTHING = -1e30
"""Maximum of an empty set of keys."""


def _later(values: Tensor, by: int, before: Tensor) -> Tensor:
    """Shift values by ``by`` tokens along axis -2; the first ``by`` tokens take the last values of ``before``."""
    # concatenation rather than padding, which is one operator here but ten nodes in ONNX
    tokens = values.shape[-2]
    return torch.cat([before, values], -2)[..., tokens - by : 2 * tokens - by, :]


def forward(w: Tensor, u: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Compute y in O(T log T); arguments and result as ``bi_wkv_reference``, in the type of the arguments.

    Doubling takes log2 T additions where a recurrence takes T, so float32 is accurate enough (1e-5 for keys of ±60).
    """
    # both directions are stacked along the batch; numerators and denominators along a new first axis
    top = torch.cat([k, k.flip(1)])  # (2B, T, C)
    values = torch.cat([v, v.flip(1)])
    sums = torch.stack([values, torch.ones_like(values)])  # (2, 2B, T, C), over exp(top)
    nothing, zero = torch.full_like(top, _NOTHING), torch.zeros_like(sums)
    reach = 1
    while reach < k.shape[1]:  # sums over ``reach`` tokens become sums over twice as many
        decayed = _later(top, reach, nothing) - w * reach
        highest = torch.maximum(top, decayed)
        sums = sums * (top - highest).exp() + _later(sums, reach, zero) * (decayed - highest).exp()
        top, reach = highest, 2 * reach
    (before_top, after_top), (before, after) = _later(top, 1, nothing).chunk(2), _later(sums, 1, zero).chunk(2, 1)
    after_top, after = after_top.flip(1), after.flip(2)
    own = u + k
    highest = torch.maximum(torch.maximum(before_top, after_top), own)
    weight = (own - highest).exp()
    around = before * (before_top - highest).exp() + after * (after_top - highest).exp()
    return (around[0] + weight * v) / (around[1] + weight)
