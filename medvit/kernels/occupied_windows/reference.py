"""Reference of ``occupied_windows``: the definition, window by window."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["occupied_windows_reference"]


def occupied_windows_reference(image: Tensor, roi_size: Sequence[int], origins: Tensor) -> Tensor:
    """Find the windows with a voxel that differs from the first one of its channel; arguments as ``occupied_windows``.

    This compares values, not bits: a window of 0.0 and -0.0 is constant here, and a NaN differs from itself.
    """
    found = []
    for origin in origins.tolist():
        box = tuple(slice(start, start + roi) for start, roi in zip(origin, roi_size, strict=True))
        window = image[(slice(None), slice(None), *box)].flatten(2)  # (batch, channel, voxel)
        found.append((window != window[..., :1]).flatten(1).any(1))
    return torch.stack(found, 1)
