"""Index tables of window attention: the token at every position of every window.

Swin attention is usually written as pad, roll, partition, attend, reverse, roll back, crop. All of these but
the attention are a permutation of tokens, so they are computed once here and used as indices.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import prod

import numpy as np

__all__ = ["WindowLayout", "window_layout"]


@dataclass(frozen=True, eq=False)  # compared and hashed by identity: layouts are cached
class WindowLayout:
    """Index tables of one feature map partitioned into windows.

    Attributes:
        token: (window, position) int64, index of the token in the flattened feature map; -1 for padding.
        region: (window, position) int64; attention between different regions is masked.
        relative: (position, position) int64, row of the bias table of the full window size.
        masked: (window,) bool, True for windows with more than one region.
    """

    token: np.ndarray
    region: np.ndarray
    relative: np.ndarray
    masked: np.ndarray


def _relative_index(window: tuple[int, ...], tokens: int) -> np.ndarray:
    """Return the bias-table rows of the first ``tokens`` positions of a full window, as MONAI's ``[:n, :n]``."""
    coords = np.stack(np.meshgrid(*[np.arange(w) for w in window], indexing="ij")).reshape(len(window), -1)
    difference = coords[:, :, None] - coords[:, None, :] + np.array(window)[:, None, None] - 1
    strides = [prod(2 * w - 1 for w in window[axis + 1 :]) for axis in range(len(window))]
    index = (difference * np.array(strides)[:, None, None]).sum(0)
    return np.ascontiguousarray(index[:tokens, :tokens])


@lru_cache(maxsize=64)
def window_layout(spatial: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...]) -> WindowLayout:
    """Compute the tables for a feature map of size ``spatial``.

    Where a side is not longer than the window, the window shrinks to the side and the shift is dropped (MONAI's
    ``get_window_size``); other sides are padded at the end to a multiple of the window, before the shift.
    """
    size = tuple(min(s, w) for s, w in zip(spatial, window, strict=True))
    moved = tuple(0 if s <= w else d for s, w, d in zip(spatial, window, shift, strict=True))
    padded = tuple(-(-s // w) * w for s, w in zip(spatial, size, strict=True))

    flat = np.full(padded, -1, dtype=np.int64)
    flat[tuple(slice(s) for s in spatial)] = np.arange(prod(spatial)).reshape(spatial)
    axes = tuple(range(len(spatial)))
    flat = np.roll(flat, tuple(-m for m in moved), axes)

    region = np.zeros(padded, dtype=np.int64)
    if any(moved):
        # MONAI numbers the regions by three slices per axis, one axis after another
        for axis, (length, w, m) in enumerate(zip(padded, size, moved, strict=True)):
            code = np.zeros(length, dtype=np.int64)
            if m:
                code[length - w : length - m] = 1
                code[length - m :] = 2
            shape = [1] * len(padded)
            shape[axis] = length
            region = region * 3 + code.reshape(shape)

    token = _partition(flat, size)
    region = _partition(region, size)
    masked = (region != region[:, :1]).any(1)
    return WindowLayout(token, region, _relative_index(window, prod(size)), masked)


def _partition(volume: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Rearrange a padded volume to (window, position), with windows and positions in row-major order."""
    split: list[int] = []
    for length, w in zip(volume.shape, size, strict=True):
        split += [length // w, w]
    rank = len(size)
    order = [2 * a for a in range(rank)] + [2 * a + 1 for a in range(rank)]
    return np.ascontiguousarray(volume.reshape(split).transpose(order).reshape(-1, prod(size)))
