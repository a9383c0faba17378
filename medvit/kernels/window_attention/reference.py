"""Reference of window attention, written as the formula: softmax(q kᵀ · scale + bias + mask) v, window by window."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from medvit.kernels.window_attention.layout import WindowLayout

__all__ = ["window_attention_reference"]

MASK = -100.0
"""Number that MONAI adds to scores between different regions. It is not minus infinity, so such a token still has
weight e^-100."""


def window_attention_reference(
    qkv: Tensor,  # (batch, token, 3C)
    bias_table: Tensor,  # (offset, head)
    pad: Tensor,  # (3C,)
    layout: WindowLayout,
    num_heads: int,
) -> Tensor:  # (batch, token, C)
    """Compute attention within windows on flattened tokens; any float type, differentiable by autograd."""
    batch, tokens, width = qkv.shape
    channels = width // 3
    head_dim = channels // num_heads
    # indices are computed before any tensor operation, so that torch.export records them as constants
    token = np.where(layout.token < 0, tokens, layout.token)  # (window, n), the last row of ``extended`` is padding
    index = torch.from_numpy(token).to(qkv.device)
    extended = torch.cat([qkv, pad.expand(batch, 1, width)], 1)
    windows = extended[:, index]  # (batch, window, n, 3C)
    n = index.shape[1]
    q, k, v = windows.view(batch, -1, n, 3, num_heads, head_dim).permute(3, 0, 1, 4, 2, 5)
    relative = torch.from_numpy(layout.relative).to(qkv.device)
    bias = bias_table[relative.reshape(-1)].view(n, n, num_heads).permute(2, 0, 1)
    scores = (q * head_dim**-0.5) @ k.transpose(-2, -1) + bias  # (batch, window, head, n, n)
    if bool(layout.masked.any()):
        region = torch.from_numpy(layout.region).to(qkv.device)
        apart = region[:, :, None] != region[:, None, :]
        scores = scores + apart[:, None].to(scores.dtype) * MASK
    attended = (scores.softmax(-1) @ v).transpose(2, 3).reshape(batch, -1, channels)  # (batch, window x n, C)
    source = np.full(tokens + 1, token.size)  # the row of each token's result; the row after the last is zeros
    source[token.reshape(-1)] = np.arange(token.size)
    nothing = attended.new_zeros(batch, 1, channels)
    return torch.cat([attended, nothing], 1)[:, torch.from_numpy(source[:tokens]).to(qkv.device)]
