"""Triton kernels of window attention. A program has one window, one head and a block of queries or keys; no two
programs write to the same number.

Tokens, regions and padding come from index tables; the row of the bias table is ``place[i] - place[j] + middle``, so
that the column of a head in the table stays in first-level cache and no n x n table is read. Exponents are in units of
ln 2.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["attend", "bias_gradient", "key_gradients", "query_gradients"]

LOG2E = tl.constexpr(1.4426950408889634)
FAR = tl.constexpr(-1e30)
MASK = tl.constexpr(-100.0)
"""Number that MONAI adds to scores between different regions: such a token still has weight e^-100."""


@triton.jit
def _item(windows, count, SOME: tl.constexpr):
    """Return the sample of this program and the row of its window in the tables."""
    item = tl.program_id(0)
    b, row = item // count, item % count
    if SOME:
        return b.to(tl.int64), tl.load(windows + row).to(tl.int64)
    return b.to(tl.int64), row.to(tl.int64)


@triton.jit
def _rows(base, pad, at, token, column, fits, stride, WIDTH: tl.constexpr, KIND: tl.constexpr):
    """Load (position, head_dim) of q, k or v; padded tokens take the projection's bias."""
    real = at[:, None] & (token >= 0)[:, None] & fits[None, :]
    x = tl.load(base + token[:, None].to(tl.int64) * stride + column[None, :], mask=real, other=0.0).to(KIND)
    instead = tl.load(pad + column, mask=fits, other=0.0).to(KIND)
    return tl.where((token < 0)[:, None], instead[None, :], x)


@triton.jit
def _scores(q, k, i, j, place, region, table, middle, scale, n, masked, KIND: tl.constexpr):
    """Compute the scores of queries i against keys j, divided by ln 2, with bias and mask; keys past the last get
    ``FAR``."""
    s = tl.dot(q, tl.trans(k), input_precision="tf32x3") * (scale * LOG2E)
    inside = (i < n)[:, None] & (j < n)[None, :]
    pi, pj = tl.load(place + i, mask=i < n, other=0), tl.load(place + j, mask=j < n, other=0)
    s += tl.load(table + (pi[:, None] - pj[None, :] + middle), mask=inside, other=0.0).to(tl.float32) * LOG2E
    if masked != 0:  # only the last window along an axis has several regions
        ri, rj = tl.load(region + i, mask=i < n, other=0), tl.load(region + j, mask=j < n, other=0)
        s += tl.where(ri[:, None] != rj[None, :], MASK * LOG2E, 0.0)
    return tl.where((j < n)[None, :], s, FAR)


@triton.jit
def attend(
    qkv, pad, table, token, region, masked, place, windows, out, lse,
    count, tokens, n, channels, head_dim, heads, offsets, middle, batch_stride, stride, scale,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, WIDTH: tl.constexpr, KIND: tl.constexpr, SOME: tl.constexpr,
):  # fmt: skip
    """Write the result to ``out`` (B, token, C) and the log-sum-exp divided by ln 2 to ``lse`` (B x window, head,
    n)."""
    b, window = _item(windows, count, SOME)
    head = tl.program_id(1)
    i = tl.program_id(2) * QUERIES + tl.arange(0, QUERIES)
    d = tl.arange(0, WIDTH)
    fits = d < head_dim
    column = head * head_dim + d
    base = qkv + b * batch_stride
    own = tl.load(token + window * n + i, mask=i < n, other=0)
    q = _rows(base, pad, i < n, own, column, fits, stride, WIDTH, KIND)
    mixed = tl.load(masked + window)
    bias = table + head * offsets
    top = tl.zeros((QUERIES,), tl.float32) + FAR
    total_weight = tl.zeros((QUERIES,), tl.float32)
    result = tl.zeros((QUERIES, WIDTH), tl.float32)
    for start in range(0, n, KEYS):
        j = start + tl.arange(0, KEYS)
        other = tl.load(token + window * n + j, mask=j < n, other=0)
        k = _rows(base, pad, j < n, other, column + channels, fits, stride, WIDTH, KIND)
        v = _rows(base, pad, j < n, other, column + 2 * channels, fits, stride, WIDTH, KIND)
        s = _scores(q, k, i, j, place, region + window * n, bias, middle, scale, n, mixed, KIND)
        higher = tl.maximum(top, tl.max(s, 1))
        p = tl.exp2(s - higher[:, None])
        keep = tl.exp2(top - higher)
        total_weight = total_weight * keep + tl.sum(p, 1)
        result = result * keep[:, None] + tl.dot(p.to(KIND), v, input_precision="tf32x3")
        top = higher
    result = result / total_weight[:, None]
    here = (i < n) & (own >= 0)
    at = (b * tokens + own[:, None]) * channels + column[None, :]
    tl.store(out + at, result.to(out.dtype.element_ty), mask=here[:, None] & fits[None, :])
    row = (tl.program_id(0).to(tl.int64) * heads + head) * n + i
    tl.store(lse + row, top + tl.log2(total_weight), mask=i < n)


@triton.jit
def _slopes(
    base, grad, out, pad, place, region, table, lse, b, own, other, i, j, column, fits, row,
    tokens, n, channels, middle, stride, scale, mixed, WIDTH: tl.constexpr, KIND: tl.constexpr,
):  # fmt: skip
    """Return the factors of the gradients for queries i and keys j: weights, gradients of the scores, q, k, gradient of
    the output."""
    q = _rows(base, pad, i < n, own, column, fits, stride, WIDTH, KIND)
    k = _rows(base, pad, j < n, other, column + channels, fits, stride, WIDTH, KIND)
    v = _rows(base, pad, j < n, other, column + 2 * channels, fits, stride, WIDTH, KIND)
    here = ((i < n) & (own >= 0))[:, None] & fits[None, :]
    at = (b * tokens + own[:, None]) * channels + column[None, :]
    g = tl.load(grad + at, mask=here, other=0.0).to(tl.float32)
    delta = tl.sum(g * tl.load(out + at, mask=here, other=0.0).to(tl.float32), 1)
    s = _scores(q, k, i, j, place, region, table, middle, scale, n, mixed, KIND)
    p = tl.exp2(s - tl.load(lse + row + i, mask=i < n, other=0.0)[:, None])
    # padded queries and queries past the last contribute no gradient
    p = tl.where(((i < n) & (own >= 0))[:, None], p, 0.0)
    slope = p * (tl.dot(g.to(KIND), tl.trans(v), input_precision="tf32x3") - delta[:, None])
    return p, slope, q, k, g


@triton.jit
def query_gradients(
    qkv, pad, table, token, region, masked, place, windows, out, lse, grad, dqkv,
    count, tokens, n, channels, head_dim, heads, offsets, middle, batch_stride, stride, scale,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, WIDTH: tl.constexpr, KIND: tl.constexpr, SOME: tl.constexpr,
):  # fmt: skip
    """Write the gradient of q, the first third of ``dqkv`` (B, token, 3C)."""
    b, window = _item(windows, count, SOME)
    head = tl.program_id(1)
    i = tl.program_id(2) * QUERIES + tl.arange(0, QUERIES)
    d = tl.arange(0, WIDTH)
    fits = d < head_dim
    column = head * head_dim + d
    own = tl.load(token + window * n + i, mask=i < n, other=-1)
    row = (tl.program_id(0).to(tl.int64) * heads + head) * n
    mixed = tl.load(masked + window)
    dq = tl.zeros((QUERIES, WIDTH), tl.float32)
    for start in range(0, n, KEYS):
        j = start + tl.arange(0, KEYS)
        other = tl.load(token + window * n + j, mask=j < n, other=0)
        _p, slope, _q, k, _g = _slopes(
            qkv + b * batch_stride, grad, out, pad, place, region + window * n, table + head * offsets, lse,
            b, own, other, i, j, column, fits, row, tokens, n, channels, middle, stride, scale, mixed, WIDTH, KIND,
        )  # fmt: skip
        dq += tl.dot(slope.to(KIND), k, input_precision="tf32x3")
    here = ((i < n) & (own >= 0))[:, None] & fits[None, :]
    at = (b * tokens + own[:, None]) * 3 * channels + column[None, :]
    tl.store(dqkv + at, (dq * scale).to(dqkv.dtype.element_ty), mask=here)


@triton.jit
def key_gradients(
    qkv, pad, table, token, region, masked, place, windows, out, lse, grad, dqkv, dpad,
    count, tokens, n, channels, head_dim, heads, offsets, middle, batch_stride, stride, scale,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, WIDTH: tl.constexpr, KIND: tl.constexpr, SOME: tl.constexpr,
):  # fmt: skip
    """Write the gradients of k and v to ``dqkv``, and those of padded keys to ``dpad`` (block of keys, B x window,
    2C)."""
    b, window = _item(windows, count, SOME)
    head = tl.program_id(1)
    j = tl.program_id(2) * KEYS + tl.arange(0, KEYS)
    d = tl.arange(0, WIDTH)
    fits = d < head_dim
    column = head * head_dim + d
    other = tl.load(token + window * n + j, mask=j < n, other=0)
    row = (tl.program_id(0).to(tl.int64) * heads + head) * n
    mixed = tl.load(masked + window)
    dk, dv = tl.zeros((KEYS, WIDTH), tl.float32), tl.zeros((KEYS, WIDTH), tl.float32)
    for start in range(0, n, QUERIES):
        i = start + tl.arange(0, QUERIES)
        own = tl.load(token + window * n + i, mask=i < n, other=-1)
        p, slope, q, _k, g = _slopes(
            qkv + b * batch_stride, grad, out, pad, place, region + window * n, table + head * offsets, lse,
            b, own, other, i, j, column, fits, row, tokens, n, channels, middle, stride, scale, mixed, WIDTH, KIND,
        )  # fmt: skip
        dv += tl.dot(tl.trans(p.to(KIND)), g.to(KIND), input_precision="tf32x3")
        dk += tl.dot(tl.trans(slope.to(KIND)), q, input_precision="tf32x3")
    dk *= scale
    real = ((j < n) & (other >= 0))[:, None] & fits[None, :]
    at = (b * tokens + other[:, None]) * 3 * channels + column[None, :]
    tl.store(dqkv + at + channels, dk.to(dqkv.dtype.element_ty), mask=real)
    tl.store(dqkv + at + 2 * channels, dv.to(dqkv.dtype.element_ty), mask=real)
    padded = ((j < n) & (other < 0))[:, None]
    to = dpad + (tl.program_id(2).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)) * 2 * channels + column
    tl.store(to, tl.sum(tl.where(padded, dk, 0.0), 0), mask=fits)
    tl.store(to + channels, tl.sum(tl.where(padded, dv, 0.0), 0), mask=fits)


@triton.jit
def bias_gradient(
    qkv, pad, table, token, region, masked, place, windows, out, lse, grad, dense,
    count, tokens, n, channels, head_dim, heads, offsets, middle, batch_stride, stride, scale, items, splits,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, WIDTH: tl.constexpr, KIND: tl.constexpr, SOME: tl.constexpr,
):  # fmt: skip
    """Write the gradients of the scores, summed over every splits-th window in a fixed order, to ``dense`` (split,
    head, n, n)."""
    head, split = tl.program_id(1) % heads, tl.program_id(1) // heads
    blocks = (n + KEYS - 1) // KEYS
    i = (tl.program_id(0) // blocks) * QUERIES + tl.arange(0, QUERIES)
    j = (tl.program_id(0) % blocks) * KEYS + tl.arange(0, KEYS)
    d = tl.arange(0, WIDTH)
    fits = d < head_dim
    column = head * head_dim + d
    sums = tl.zeros((QUERIES, KEYS), tl.float32)
    for item in range(split, items, splits):
        b, window = (item // count).to(tl.int64), (item % count).to(tl.int64)
        if SOME:
            window = tl.load(windows + window).to(tl.int64)
        own = tl.load(token + window * n + i, mask=i < n, other=-1)
        other = tl.load(token + window * n + j, mask=j < n, other=0)
        row = ((b * count + item % count) * heads + head) * n  # b * count + item % count is item, in 64 bits
        mixed = tl.load(masked + window)
        _p, slope, _q, _k, _g = _slopes(
            qkv + b * batch_stride, grad, out, pad, place, region + window * n, table + head * offsets, lse,
            b, own, other, i, j, column, fits, row, tokens, n, channels, middle, stride, scale, mixed, WIDTH, KIND,
        )  # fmt: skip
        sums += slope
    at = ((split * heads + head).to(tl.int64) * n + i[:, None]) * n + j[None, :]
    tl.store(dense + at, sums, mask=(i < n)[:, None] & (j < n)[None, :])
