"""Window attention for recorded graphs: the formula without a mask table of windows x tokens x tokens.

The mask of a shifted window, -100 between tokens of different regions, is a product of two thin matrices: with one
column for each region of a window, ``-100 · onehot(q) · (1 - onehot(k))`` is 0 within a region and -100 between two.
These columns are appended to q and k, so that one matrix product gives scores and mask. The mask tables of a Swin UNETR
at 96³ would be 740 MB of constants; the columns are 4 MB per stage.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from medvit.kernels.window_attention.layout import WindowLayout
from medvit.kernels.window_attention.reference import MASK

__all__ = ["window_attention_recorded"]


def window_attention_recorded(
    qkv: Tensor,  # (batch, token, 3C)
    bias_table: Tensor,  # (offset, head)
    pad: Tensor,  # (3C,)
    layout: WindowLayout,
    num_heads: int,
) -> Tensor:  # (batch, token, C)
    """Compute the result of ``window_attention_reference`` with every index a constant of the graph."""
    batch, tokens, width = qkv.shape
    channels = width // 3
    head_dim = channels // num_heads
    token = np.where(layout.token < 0, tokens, layout.token)  # (window, n), the last row of ``extended`` is padding
    count, n = token.shape
    extended = torch.cat([qkv, pad.expand(batch, 1, width)], 1)
    windows = extended[:, torch.from_numpy(token.reshape(-1)).to(qkv.device)]  # (batch, window x n, 3C)
    q, k, v = windows.view(batch * count, n, 3, num_heads, head_dim).permute(2, 0, 3, 1, 4)
    q = q * head_dim**-0.5
    if bool(layout.masked.any()):
        region = torch.from_numpy(_columns(layout)).to(qkv.device, qkv.dtype)  # (window, n, region)
        columns = region.repeat(batch, 1, 1)[:, None].expand(-1, num_heads, -1, -1)
        q, k = torch.cat([q, columns * MASK], -1), torch.cat([k, 1 - columns], -1)
    relative = torch.from_numpy(layout.relative.reshape(-1)).to(qkv.device)
    bias = bias_table[relative].view(n, n, num_heads).permute(2, 0, 1)
    # (batch x window, head, n, head_dim); a single PyTorch operator, which graph compilers do not split
    attended = scaled_dot_product_attention(q, k, v, attn_mask=bias[None], scale=1.0)
    attended = attended.transpose(1, 2).reshape(batch, -1, channels)
    source = np.full(tokens + 1, token.size)  # the row of each token's result; the row after the last is zeros
    source[token.reshape(-1)] = np.arange(token.size)
    if int(source[:tokens].max()) == token.size:  # only some windows were computed
        attended = torch.cat([attended, attended.new_zeros(batch, 1, channels)], 1)
    return attended[:, torch.from_numpy(source[:tokens]).to(qkv.device)]


def _columns(layout: WindowLayout) -> np.ndarray:
    """Return (window, n, region) one-hot columns of each token's region, with regions numbered within the window."""
    codes = np.stack([np.unique(row, return_inverse=True)[1] for row in layout.region])
    columns: np.ndarray = codes[:, :, None] == np.arange(codes.max() + 1)
    return columns
