"""Inference of Restore-RWKV's blocks in strips of rows, whose intermediate values stay in the processor's cache.

On a whole slice, each operator of a block writes a tensor of up to four times the feature map and the next one reads
it: 134 MB for 512 x 512 pixels and 32 channels. In strips these tensors are about a megabyte. The arithmetic of each
pixel is the same. Only bi-WKV needs the whole map. Blocks and mixes are those of ``restore_rwkv.py``, which imports this
file, so their type is not named here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from medvit.kernels.bi_wkv.image_2d import bi_wkv_2d
from medvit.kernels.tracing import can_skip_dispatcher

__all__ = ["fits_strips", "run_block"]

_ELEMENTS = 2**19
"""Largest number of elements of an intermediate tensor of a strip: 2 MB in float32."""

_HALO = 2
"""Rows on each side that the 5x5 kernel reads."""


def fits_strips(block: Any, x: Tensor) -> bool:
    """Return True if a block may run in strips: on the CPU, in one type, with layers as they were built (no adapters, no
    hooks), and with nothing that observes the operators (gradients, a recorded graph, autocast)."""
    return (
        x.device.type == "cpu"
        and all(
            _is_plain(layer)
            for mix in (block.att, block.ffn)
            for layer in mix.children()
            if hasattr(layer, "in_features")
        )
        and x.dtype == block.gamma1.dtype
        and x.dtype in (torch.float32, torch.float64)
        and not torch.is_autocast_enabled("cpu")
        and can_skip_dispatcher(x, *block.parameters())
    )


def _is_plain(layer: torch.nn.Module) -> bool:
    """Return True for a linear layer that only multiplies by its weight, which is what the strips do."""
    return type(layer) is torch.nn.Linear and not (layer._forward_hooks or layer._forward_pre_hooks)


def run_block(block: Any, x: Tensor) -> Tensor:
    """Apply both mixes of a block to (batch, channel, height, width), without gradients."""
    maps = [_run_map(block, one) for one in x.permute(0, 2, 3, 1).contiguous()]
    made = (torch.stack(maps) if len(maps) > 1 else maps[0][None]).permute(0, 3, 1, 2)
    # the layout of the input, as the sums of the whole map have it: the next convolution's rounding depends on it
    return made.contiguous() if x.is_contiguous() else made


def _run_map(block: Any, x: Tensor) -> Tensor:
    """Apply both mixes to one map (height, width, channel)."""
    height, width, channels = x.shape
    rows = max(1, _ELEMENTS // (4 * channels * width))
    strips = [(start, min(height, start + rows)) for start in range(0, height, rows)]
    mixed = _spatial(block, block.att, x, strips)
    made = torch.empty_like(x)
    kernel = block.ffn.omni_shift.kernel()
    for start, end in strips:
        shifted = _shifted(mixed, start, end, block.ln2, kernel)
        change = _channel(block.ffn, shifted).mul_(block.gamma2)
        torch.add(mixed[start:end].view_as(change), change, out=made[start:end].view_as(change))
    return made


def _spatial(block: Any, mix: Any, x: Tensor, strips: list[tuple[int, int]]) -> Tensor:
    height, width, channels = x.shape
    k, v, r = (torch.empty_like(x) for _ in range(3))
    kernel = mix.omni_shift.kernel()
    for start, end in strips:
        shifted = _shifted(x, start, end, block.ln1, kernel)
        for layer, whole in ((mix.key, k), (mix.value, v), (mix.receptance, r)):
            torch.mm(shifted, layer.weight.t(), out=whole[start:end].view_as(shifted))
    decay, first = (p / (height * width) for p in (mix.spatial_decay, mix.spatial_first))
    y = bi_wkv_2d(decay, first, k[None], v[None], r[None])[0]
    for start, end in strips:
        change = torch.mm(y[start:end].view(-1, channels), mix.output.weight.t()).mul_(block.gamma1)
        torch.add(
            x[start:end].view_as(change), change, out=k[start:end].view_as(change)
        )  # the keys' memory is free now
    return k


def _channel(mix: Any, x: Tensor) -> Tensor:
    inner = torch.mm(x, mix.key.weight.t()).relu_()
    inner.mul_(inner)
    return torch.mm(x, mix.receptance.weight.t()).sigmoid_().mul_(torch.mm(inner, mix.value.weight.t()))


def _shifted(x: Tensor, start: int, end: int, norm: torch.nn.LayerNorm, kernel: Tensor) -> Tensor:
    """Return layer norm and OmniShift of rows ``start`` to ``end``, (pixel, channel)."""
    height, _, channels = x.shape
    first, last = max(0, start - _HALO), min(height, end + _HALO)
    above, below = first - (start - _HALO), end + _HALO - last
    normal = norm(x[first:last])
    if above or below:
        normal = F.pad(normal, (0, 0, 0, 0, above, below))
    shifted = F.conv2d(normal[None].permute(0, 3, 1, 2), kernel, padding=(0, _HALO), groups=channels)
    return shifted.permute(0, 2, 3, 1).reshape(-1, channels)
