"""Window attention on a GPU: launches of the kernels in ``triton_kernels.py``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import triton.language as tl
from torch import Tensor

from medvit.kernels.triton_support import launching
from medvit.kernels.window_attention import triton_kernels as kernels
from medvit.kernels.window_attention.layout import WindowLayout

__all__ = ["backward", "forward"]

_KINDS = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}
_SHARES = 512
"""Approximate number of programs among which the windows are divided for the gradient of the bias."""


@dataclass(frozen=True)
class Blocks:
    """Number of queries and keys that a program takes at a time. Blocks of 32 keys pad 343 keys to 352, not to 512."""

    queries: int = 64
    keys: int = 32
    warps: int = 4


BLOCKS = Blocks()


@dataclass(frozen=True, kw_only=True)
class _Tables:
    token: Tensor
    region: Tensor
    masked: Tensor
    place: Tensor
    middle: int
    pairs: Tensor  # (offset, query): index into n x n; n x n itself where there is no such key


@lru_cache(maxsize=64)
def _tables(layout: WindowLayout, device: torch.device) -> _Tables:
    def put(array: np.ndarray, kind: type = np.int32) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array.astype(kind))).to(device)

    relative = layout.relative
    middle = int(relative[0, 0])
    # relative[i, j] = place[i] - place[j] + middle, since it is a sum over axes of differences of coordinates
    place = relative[:, 0] - middle
    n = len(place)
    pairs = np.full((2 * middle + 1, n), n * n, np.int64)
    query, key = np.indices(relative.shape)
    pairs[relative, query] = query * n + key
    return _Tables(
        token=put(layout.token),
        region=put(layout.region),
        masked=put(layout.masked),
        place=put(place),
        middle=middle,
        pairs=put(pairs, np.int64),
    )


class _Call:
    """Arguments shared by all launches of one call."""

    def __init__(
        self, qkv: Tensor, table: Tensor, pad: Tensor, layout: WindowLayout, windows: Tensor | None, heads: int
    ) -> None:
        self.qkv = qkv if qkv.stride(-1) == 1 else qkv.contiguous()
        self.tables = _tables(layout, qkv.device)
        self.count = len(layout.token) if windows is None else len(windows)
        self.batch, self.tokens, width = qkv.shape
        self.items, self.n = self.batch * self.count, layout.token.shape[1]
        self.heads, self.channels = heads, width // 3
        self.head_dim = self.channels // heads
        self.windows = windows
        self.columns = table.float().t().contiguous()  # (head, offset): the column of a head is contiguous
        self.pad = pad.float()

    @property
    def pointers(self) -> tuple[Tensor, ...]:
        t = self.tables
        windows = self.windows.int() if self.windows is not None else t.token
        return self.qkv, self.pad, self.columns, t.token, t.region, t.masked, t.place, windows

    @property
    def numbers(self) -> tuple[int | float, ...]:
        return (
            self.count, self.tokens, self.n, self.channels, self.head_dim, self.heads, self.columns.shape[1],
            self.tables.middle, self.qkv.stride(0), self.qkv.stride(1), self.head_dim**-0.5,
        )  # fmt: skip

    @property
    def options(self) -> dict[str, Any]:
        width = max(16, 1 << (self.head_dim - 1).bit_length())  # matrix products in Triton need at least 16
        return {
            "QUERIES": BLOCKS.queries, "KEYS": BLOCKS.keys, "WIDTH": width, "KIND": _KINDS[self.qkv.dtype],
            "SOME": self.windows is not None, "num_warps": BLOCKS.warps,
        }  # fmt: skip

    def fresh(self, channels: int) -> Tensor:
        """Allocate (batch, token, channels); filled with zeros if only some windows are computed."""
        make = torch.empty if self.windows is None else torch.zeros
        return make(self.batch, self.tokens, channels, dtype=self.qkv.dtype, device=self.qkv.device)


def _blocks(n: int, size: int) -> int:
    return -(-n // size)


def forward(
    qkv: Tensor, table: Tensor, pad: Tensor, layout: WindowLayout, windows: Tensor | None, heads: int
) -> tuple[Tensor, Tensor]:
    """Compute the result, (batch, token, C), and the log-sum-exp of the scores over ln 2, (batch, window, head, n)."""
    call = _Call(qkv, table, pad, layout, windows, heads)
    out = call.fresh(call.channels)
    lse = torch.empty(call.batch, call.count, heads, call.n, dtype=torch.float32, device=qkv.device)
    if call.items:
        with launching(qkv):
            grid = (call.items, heads, _blocks(call.n, BLOCKS.queries))
            kernels.attend[grid](*call.pointers, out, lse, *call.numbers, **call.options)
    return out, lse


def backward(
    grad: Tensor,
    inputs: tuple[Tensor, Tensor, Tensor],
    saved: tuple[Tensor, Tensor],
    layout: WindowLayout,
    windows: Tensor | None,
    heads: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of qkv, the bias table and the padding; results are deterministic."""
    qkv, table, pad = inputs
    call = _Call(qkv, table, pad, layout, windows, heads)
    n, device = call.n, qkv.device
    dqkv = call.fresh(3 * call.channels)
    splits = max(1, min(call.items, _SHARES // (heads * _blocks(n, BLOCKS.queries) * _blocks(n, BLOCKS.keys))))
    dense = torch.empty(splits, heads, n * n, dtype=torch.float32, device=device)
    blocks = _blocks(n, BLOCKS.keys)
    dpad = torch.empty(blocks, call.items, 2 * call.channels, dtype=torch.float32, device=device)
    if not call.items:
        return dqkv, torch.zeros_like(table), torch.zeros_like(pad)
    with launching(qkv):
        shared = (*call.pointers, *saved, grad.contiguous())
        queries = (call.items, heads, _blocks(n, BLOCKS.queries))
        kernels.query_gradients[queries](*shared, dqkv, *call.numbers, **call.options)
        kernels.key_gradients[(call.items, heads, blocks)](*shared, dqkv, dpad, *call.numbers, **call.options)
        tiles = (_blocks(n, BLOCKS.queries) * blocks, heads * splits)
        kernels.bias_gradient[tiles](*shared, dense, *call.numbers, call.items, splits, **call.options)
    slopes = torch.nn.functional.pad(dense.sum(0), (0, 1))  # (head, n x n and a zero)
    dtable = slopes[:, call.tables.pairs].sum(2).t()
    first = torch.zeros(call.channels, dtype=torch.float32, device=device)
    return dqkv, dtable.to(table.dtype), torch.cat([first, dpad.sum((0, 1))]).to(pad.dtype)
