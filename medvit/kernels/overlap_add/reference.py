"""Reference of overlap-add: y(x) = Σ_n w(x - o_n) f_n(x - o_n) / Σ_n w(x - o_n) over the windows n (origins o_n) that
cover x."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["overlap_add_reference"]


def overlap_add_reference(windows: Tensor, origins: Tensor, size: Sequence[int], weight: Tensor) -> Tensor:
    """Blend windows voxel by voxel, in double precision; arguments as ``overlap_add``."""
    blended = torch.zeros(windows.shape[1], *size, dtype=torch.float64)
    for x in torch.cartesian_prod(*(torch.arange(n) for n in size)).reshape(-1, len(size)):
        above, below = torch.zeros(windows.shape[1], dtype=torch.float64), 0.0
        for f, o in zip(windows.double(), origins, strict=True):
            within = x - o
            if bool((within >= 0).all()) and bool((within < torch.tensor(weight.shape)).all()):
                above = above + weight[tuple(within)].double() * f[(slice(None), *within)]
                below = below + float(weight[tuple(within)])
        blended[(slice(None), *x)] = above / below
    return blended
