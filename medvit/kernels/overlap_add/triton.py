"""Overlap-add on a GPU: launches of the kernels in ``triton_kernels.py``, without fused multiply-adds so that bits
equal torch's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medvit.kernels.overlap_add import triton_kernels as kernels
from medvit.kernels.triton_support import launching

__all__ = ["accumulate", "blend"]

_BLOCK = 256


def _three(tensor: Tensor, axes: int, after: int = 0) -> Tensor:
    """View the last ``axes`` axes as three, by adding axes of length 1 after the first ``after`` of them."""
    for _ in range(3 - axes):
        tensor = tensor.unsqueeze(tensor.ndim - axes + after)
        axes += 1
    return tensor


def accumulate(sums: Tensor, weights: Tensor | None, window: Tensor, weight: Tensor, turn: int = 0) -> None:
    """Add window x weight to ``sums`` in place, and the weight to ``weights`` unless that is None.

    Args:
        sums: (channel, ring, *rest), the part of the sums that the window covers along all axes but the first.
        weights: (ring, *rest) sums of the weights.
        window: (channel, *roi), of the weight's type or a narrower one.
        weight: (*roi) weight of each voxel.
        turn: plane of the ring that holds the window's first plane.
    """
    axes = weight.ndim
    ring = sums.shape[1]
    # the axis of the planes must stay first, since the kernel wraps around along the first axis
    total, values, shares = (_three(t, axes, 1) for t in (sums, window, weight))
    counts = _three(weights, axes, 1) if weights is not None else shares
    grid = (-(-weight.numel() // _BLOCK), sums.shape[0])
    with launching(sums):
        kernels.accumulate[grid](
            total, counts, values, shares, *shares.shape, ring, turn,
            *total.stride(), *counts.stride(), *values.stride(), *shares.stride(),
            FIRST=weights is not None, BLOCK=_BLOCK, enable_fp_fusion=False,
        )  # fmt: skip


def blend(windows: Tensor, origins: Tensor, size: Sequence[int], weight: Tensor) -> tuple[Tensor, int]:
    """Compute the weighted mean, (channel, *size), and the number of voxels that no window covers."""
    axes, channels = weight.ndim, windows.shape[1]
    whole = (1,) * (3 - axes) + tuple(size)
    values, shares = _three(windows, axes), _three(weight, axes)
    places = torch.nn.functional.pad(origins.cpu().long(), (3 - axes, 0))
    # list the windows that cover each plane, in the order in which they were given
    plane = torch.arange(whole[0])[:, None]
    covering = (plane >= places[:, 0]) & (plane < places[:, 0] + shares.shape[0])
    first = torch.cat([torch.zeros(1, dtype=torch.int64), covering.sum(1).cumsum(0)])
    listed = covering.nonzero()[:, 1]
    first, listed, places = (t.to(device=windows.device, dtype=torch.int32) for t in (first, listed, places))
    out = torch.empty(channels, *whole, dtype=weight.dtype, device=windows.device)
    grid = (whole[0] * whole[1], -(-whole[2] // _BLOCK), channels)
    missed = torch.empty(grid[0] * grid[1], dtype=torch.int32, device=windows.device)
    with launching(windows):
        kernels.blend[grid](
            values, shares, places.contiguous(), first, listed, out, missed, *whole, *shares.shape,
            *values.stride(), *shares.stride(), BLOCK=_BLOCK, enable_fp_fusion=False,
        )  # fmt: skip
    return out.view(channels, *size), int(missed.sum())
