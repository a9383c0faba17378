"""Window attention on the CPU: one pass per row of scores; no n x n matrix is stored.

Numba compiles the loops for the machine at hand. A row of scores (343 floats for a 7x7x7 window) stays in the
first-level cache from the product to the weighted sum; the backward pass recomputes it from the saved
log-sum-exp. Rows are padded to a multiple of 16 so that every inner loop is whole vectors.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from torch import Tensor

from medvit.kernels.numba_support import job_kernel
from medvit.kernels.window_attention.layout import WindowLayout

__all__ = ["backward", "forward"]

_LANES = 16
_FAR = np.float32(-1e30)
_MASK = np.float32(-100.0)
_LOG2E = np.float32(1.4426950408889634)
_FLOOR = np.float32(-126.0)
_ONE = np.float32(1.0)
_ZERO = np.float32(0.0)
# 2^f on [0, 1): least-squares polynomial on Chebyshev nodes, relative error below 2e-7
_P1, _P2, _P3 = np.float32(0.6931471706), np.float32(0.2402272151), np.float32(0.05549593611)
_P4, _P5, _P6 = np.float32(0.009652440736), np.float32(0.001268935134), np.float32(0.0002082919572)


@intrinsic  # type: ignore[untyped-decorator]
def _as_float(typingctx: Any, bits: Any) -> Any:
    """Read the bits of an int32 as a float32."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), codegen


@njit(inline="always", fastmath=True)
def _exp(x):  # type: ignore[no-untyped-def]
    """Compute exp for x <= 0 without branches: 2^t is an integer power (exponent bits) times a polynomial."""
    t = max(x * _LOG2E, _FLOOR)
    whole = np.floor(t)
    f = t - whole
    p = _ONE + f * (_P1 + f * (_P2 + f * (_P3 + f * (_P4 + f * (_P5 + f * _P6)))))
    return p * _as_float(np.int32((np.int32(whole) + np.int32(127)) << np.int32(23)))


@njit(inline="always")
def _gather(qkv, pad, token, offset, columns):  # type: ignore[no-untyped-def]
    """Copy the transposed block (head_dim, n) of q, k or v of one window; padded tokens take the projection's bias."""
    for j in range(token.shape[0]):
        t = token[j]
        for c in range(columns.shape[0]):
            columns[c, j] = qkv[t, offset + c] if t >= 0 else pad[offset + c]


@njit(inline="always", fastmath=True)
def _scores(row, q, k, i, bias, region, masked, scale):  # type: ignore[no-untyped-def]
    """Compute the scores of query i against all keys, with bias and mask added."""
    width = row.shape[0]
    for j in range(width):
        row[j] = bias[j]
    for c in range(q.shape[0]):
        qc = q[c, i] * scale
        for j in range(width):
            row[j] += qc * k[c, j]
    if masked:
        own = region[i]
        for j in range(width):
            row[j] += _MASK if region[j] != own else _ZERO


@job_kernel()
def _forward(first_job, stop, qkv, pad, bias, token, region, masked, scale, out, lse):  # type: ignore[no-untyped-def]
    channels = out.shape[2]
    windows, n = token.shape
    heads, _, width = bias.shape
    head_dim = channels // heads
    for job in range(first_job, stop):
        b, w = job // windows, job % windows
        q = np.zeros((head_dim, width), np.float32)
        k = np.zeros((head_dim, width), np.float32)
        v = np.zeros((head_dim, width), np.float32)
        row = np.empty(width, np.float32)
        for h in range(heads):
            start = h * head_dim
            _gather(qkv[b], pad, token[w], start, q)
            _gather(qkv[b], pad, token[w], channels + start, k)
            _gather(qkv[b], pad, token[w], 2 * channels + start, v)
            for i in range(n):
                t = token[w, i]
                if t < 0:
                    continue
                _scores(row, q, k, i, bias[h, i], region[w], masked[w], scale)
                top = _FAR
                for j in range(width):
                    top = max(top, row[j])
                total = _ZERO
                for j in range(width):
                    e = _exp(row[j] - top)
                    row[j] = e
                    total += e
                for c in range(head_dim):
                    mix = _ZERO
                    for j in range(width):
                        mix += row[j] * v[c, j]
                    out[b, t, start + c] = mix / total
                lse[b, w, h, i] = top + np.log(total)


@job_kernel()
def _backward(first_job, stop, qkv, pad, bias, token, region, masked, scale, out, lse, grad, splits, dqkv, dbias, dpad):  # type: ignore[no-untyped-def]
    batch, _, channels = out.shape
    windows, n = token.shape
    heads, _, width = bias.shape
    head_dim = channels // heads
    # a job has one head and every splits-th window, so no two jobs add to the same number: results are deterministic
    for job in range(first_job, stop):
        h, split = job // splits, job % splits
        start = h * head_dim
        q = np.zeros((head_dim, width), np.float32)
        k = np.zeros((head_dim, width), np.float32)
        v = np.zeros((head_dim, width), np.float32)
        dk = np.zeros((head_dim, width), np.float32)
        dv = np.zeros((head_dim, width), np.float32)
        row = np.empty(width, np.float32)
        slope = np.empty(width, np.float32)
        for item in range(split, batch * windows, splits):
            b, w = item // windows, item % windows
            _gather(qkv[b], pad, token[w], start, q)
            _gather(qkv[b], pad, token[w], channels + start, k)
            _gather(qkv[b], pad, token[w], 2 * channels + start, v)
            dk[:] = _ZERO
            dv[:] = _ZERO
            for i in range(n):
                t = token[w, i]
                if t < 0:
                    continue
                _scores(row, q, k, i, bias[h, i], region[w], masked[w], scale)
                shift = lse[b, w, h, i]
                delta = _ZERO
                for c in range(head_dim):
                    delta += grad[b, t, start + c] * out[b, t, start + c]
                for j in range(width):
                    row[j] = _exp(min(row[j] - shift, _ZERO))
                    slope[j] = -delta
                for c in range(head_dim):
                    g = grad[b, t, start + c]
                    for j in range(width):
                        slope[j] += g * v[c, j]
                        dv[c, j] += g * row[j]
                for j in range(width):
                    slope[j] *= row[j]
                    dbias[split, h, i, j] += slope[j]
                for c in range(head_dim):
                    dq = _ZERO
                    qc = q[c, i] * scale
                    for j in range(width):
                        dq += slope[j] * k[c, j]
                        dk[c, j] += qc * slope[j]
                    dqkv[b, t, start + c] = dq * scale
            for j in range(n):
                t = token[w, j]
                for c in range(head_dim):
                    if t >= 0:
                        dqkv[b, t, channels + start + c] = dk[c, j]
                        dqkv[b, t, 2 * channels + start + c] = dv[c, j]
                    else:
                        dpad[split, channels + start + c] += dk[c, j]
                        dpad[split, 2 * channels + start + c] += dv[c, j]


@lru_cache(maxsize=64)
def _narrow(layout: WindowLayout) -> tuple[np.ndarray, np.ndarray]:
    """Convert the index tables to int32 for the loops; pad regions to whole vectors."""
    windows, n = layout.token.shape
    region = np.zeros((windows, -(-n // _LANES) * _LANES), np.int32)
    region[:, :n] = layout.region
    return layout.token.astype(np.int32), region


def _listed(layout: WindowLayout, windows: Tensor | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the rows of token, region and masked of the windows in the list."""
    token, region = _narrow(layout)
    if windows is None:
        return token, region, layout.masked
    rows = windows.cpu().numpy()
    return token[rows], region[rows], layout.masked[rows]


def _plain(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()


def _bias(table: Tensor, layout: WindowLayout, heads: int) -> np.ndarray:
    n = layout.token.shape[1]
    bias = np.full((heads, n, -(-n // _LANES) * _LANES), _FAR, np.float32)
    bias[:, :, :n] = _plain(table)[layout.relative].transpose(2, 0, 1)
    return bias


def forward(
    qkv: Tensor, table: Tensor, pad: Tensor, layout: WindowLayout, windows: Tensor | None, heads: int
) -> tuple[Tensor, Tensor]:
    """Compute the result, (batch, token, C), and the log-sum-exp of the scores, (batch, window, head, n); float32."""
    token, region, masked = _listed(layout, windows)
    batch, tokens, triple = qkv.shape
    out = torch.zeros(batch, tokens, triple // 3)
    lse = torch.zeros(batch, token.shape[0], heads, token.shape[1])
    scale = np.float32((triple // 3 // heads) ** -0.5)
    _forward(
        qkv.shape[0] * token.shape[0], _plain(qkv), _plain(pad), _bias(table, layout, heads), token, region, masked,
        scale, out.numpy(), lse.numpy(),
    )  # fmt: skip
    return out, lse


def backward(
    grad: Tensor,
    inputs: tuple[Tensor, Tensor, Tensor],
    saved: tuple[Tensor, Tensor],
    layout: WindowLayout,
    windows: Tensor | None,
    heads: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of qkv, the bias table and the padding; ``saved`` is the result of ``forward``."""
    (qkv, table, pad), (out, lse) = inputs, saved
    token, region, masked = _listed(layout, windows)
    bias = _bias(table, layout, heads)
    n = token.shape[1]
    splits = -(-8 // heads)
    dqkv = torch.zeros(qkv.shape)
    dbias = np.zeros((splits, *bias.shape), np.float32)
    dpad = np.zeros((splits, qkv.shape[2]), np.float32)
    scale = np.float32((qkv.shape[2] // 3 // heads) ** -0.5)
    _backward(
        heads * splits, _plain(qkv), _plain(pad), bias, token, region, masked, scale, _plain(out), _plain(lse),
        _plain(grad), splits, dqkv.numpy(), dbias, dpad,
    )  # fmt: skip
    dtable = torch.zeros(table.shape)
    dense = torch.from_numpy(dbias.sum(0)[:, :, :n].reshape(heads, n * n).T.copy())
    dtable.index_add_(0, torch.from_numpy(layout.relative.reshape(-1)), dense)
    return dqkv, dtable, torch.from_numpy(dpad.sum(0))
