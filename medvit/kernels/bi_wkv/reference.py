"""Reference of Bi-WKV, written as the formula (Restore-RWKV, arXiv 2407.11087, eq. 3): every token against every
other."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["bi_wkv_reference"]


def bi_wkv_reference(
    w: Tensor,  # (C,)
    u: Tensor,  # (C,)
    k: Tensor,  # (B, T, C)
    v: Tensor,  # (B, T, C)
) -> Tensor:  # (B, T, C)
    """Compute y_t = Σ_i exp(s_ti) v_i / Σ_i exp(s_ti) with s_ti = k_i - w (|t - i| - 1) for i ≠ t and s_tt = u + k_t.

    The quotient is a softmax over i, which subtracts its maximum, so no ε is needed and T = 1 gives y = v.
    """
    token = torch.arange(k.shape[1], device=k.device)
    between = (token[:, None] - token).abs() - 1  # (t, i): tokens strictly between the two
    own = (between < 0)[..., None]
    score = k[:, None] + torch.where(own, u, -w * between[..., None])  # (B, t, i, C)
    return (score.softmax(2) * v[:, None]).sum(2)
