"""Window attention as the formula reads: softmax(q kᵀ · scale + bias + mask) v, window by window."""

from __future__ import annotations

import torch
from torch import Tensor

from medvit.kernels.window_attention.layout import WindowLayout

__all__ = ["window_attention_reference"]

MASK = -100.0
"""What MONAI adds between tokens of different regions; not minus infinity, so a far token still weighs e^-100."""


def window_attention_reference(
    qkv: Tensor,  # (batch, token, 3C)
    bias_table: Tensor,  # (offset, head)
    pad: Tensor,  # (3C,)
    layout: WindowLayout,
    num_heads: int,
) -> Tensor:  # (batch, token, C)
    """Attention within windows on flattened tokens; any float type, differentiable by autograd."""
    batch, tokens, width = qkv.shape
    channels = width // 3
    head_dim = channels // num_heads
    index = torch.from_numpy(layout.token).to(qkv.device)  # (window, n), -1 picks the padding row
    extended = torch.cat([qkv, pad.expand(batch, 1, width)], 1)
    windows = extended[:, index]  # (batch, window, n, 3C)
    n = index.shape[1]
    q, k, v = windows.view(batch, -1, n, 3, num_heads, head_dim).permute(3, 0, 1, 4, 2, 5)
    relative = torch.from_numpy(layout.relative).to(qkv.device)
    bias = bias_table[relative.reshape(-1)].view(n, n, num_heads).permute(2, 0, 1)
    scores = (q * head_dim**-0.5) @ k.transpose(-2, -1) + bias  # (batch, window, head, n, n)
    if layout.masked.any():
        region = torch.from_numpy(layout.region).to(qkv.device)
        apart = region[:, :, None] != region[:, None, :]
        scores = scores + apart[:, None].to(scores.dtype) * MASK
    attended = (scores.softmax(-1) @ v).transpose(2, 3).reshape(batch, -1, n, channels)
    real = index >= 0
    out = qkv.new_zeros(batch, tokens, channels)
    out[:, index[real]] = attended[:, real]
    return out
