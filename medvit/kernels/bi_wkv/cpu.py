"""Bi-WKV on the CPU in O(T): chunks of tokens in parallel, eight channels side by side, sums in float64.

Three passes: each chunk computes the sums it contributes to the tokens after and before it; the sums are accumulated
over the chunks; each chunk computes its outputs from its own tokens and the accumulated sums. The backward pass repeats
the three passes for the gradients' sums. Exponentials are recomputed rather than kept, so the memory beyond input and
output is a few numbers per chunk. Sums are float64 for every input type: a float32 recurrence of 10^5 steps would
drift.

Tokens are read in the order of a (B, outer, inner, C) view, so the columns of an image are the rows of its transposed
view and need no copy.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from medvit.kernels.bi_wkv.blocked import (
    CHUNK,
    connect,
    connect_gradients,
    emit,
    emit_gradients,
    load,
    open_gate,
    quotients,
    store,
    summarise,
    summarise_gradients,
)
from medvit.kernels.bi_wkv.simd import LANES
from medvit.kernels.numba_support import job_kernel

__all__ = ["backward", "forward", "gradients", "run"]

_SPAN = 16
"""Number of chunks that a thread takes at a time: 1024 tokens."""

_FURTHEST = 200.0
"""Largest distance of a key below M, bonus included. Values lost by underflow below 1e-308 are then e^-500 of any
denominator."""

_GROWTH = 100.0
"""Largest exponent by which sums may grow within a chunk, where the decay is negative."""


@job_kernel(False)
def _summaries(first_job, stop, decay, k, v, sums):  # type: ignore[no-untyped-def]
    """Write each chunk's own sums to ``sums`` (B, group, chunk, 7, lane); a job is a span of chunks."""
    _, groups, chunks = sums.shape[:3]
    tokens, spans = k.shape[1] * k.shape[2], (chunks + _SPAN - 1) // _SPAN
    for job in range(first_job, stop):
        b, span = job // spans, job % spans
        key, value = np.empty((CHUNK, LANES)), np.empty((CHUNK, LANES))
        for n in range(span * _SPAN, min(chunks, (span + 1) * _SPAN)):
            start, count = n * CHUNK, min(CHUNK, tokens - n * CHUNK)
            for group in range(groups):
                first = group * LANES
                load(k, b, start, count, first, key)
                load(v, b, start, count, first, value)
                summarise(key, value, count, decay[first:], sums[b, group, n])


@job_kernel(False)
def _surroundings(first_job, stop, decay, tokens, sums, worst):  # type: ignore[no-untyped-def]
    """Turn each chunk's sums into those over all other chunks; write the largest distance of a key below M to ``worst``
    (B, group); a job is a group of a sample."""
    groups = sums.shape[1]
    for job in range(first_job, stop):
        b, group = job // groups, job % groups
        worst[b, group] = connect(sums[b, group], tokens, decay[group * LANES :])


@job_kernel(False)
def _forward(first_job, stop, decay, bonus, k, v, r, gated, sums, y):  # type: ignore[no-untyped-def]
    _, groups, chunks = sums.shape[:3]
    tokens, spans = k.shape[1] * k.shape[2], (chunks + _SPAN - 1) // _SPAN
    for job in range(first_job, stop):
        b, span = job // spans, job % spans
        key, value, part = np.empty((CHUNK, LANES)), np.empty((CHUNK, LANES)), np.empty((2, CHUNK, LANES))
        for n in range(span * _SPAN, min(chunks, (span + 1) * _SPAN)):
            start, count = n * CHUNK, min(CHUNK, tokens - n * CHUNK)
            for group in range(groups):
                first = group * LANES
                load(k, b, start, count, first, key)
                load(v, b, start, count, first, value)
                emit(key, value, count, decay[first:], bonus[first:], sums[b, group, n], part)
                if gated:
                    load(r, b, start, count, first, value)
                    open_gate(part[0], value, count)
                store(part[0], count, y, b, start, first)


@job_kernel(False)
def _backward(first_job, stop, second, decay, bonus, k, v, r, gated, g, sums, rows, shared, dk, dv, dr):  # type: ignore[no-untyped-def]
    """Write the gradients' sums of each chunk to ``rows``; in the second pass, with the sums over all other chunks
    there, write dk, dv and dr, and each chunk's dw and du to ``shared`` (B, group, chunk, 2, lane)."""
    _, groups, chunks = sums.shape[:3]
    tokens, spans = k.shape[1] * k.shape[2], (chunks + _SPAN - 1) // _SPAN
    for job in range(first_job, stop):
        b, span = job // spans, job % spans
        key, value, grad = np.empty((CHUNK, LANES)), np.empty((CHUNK, LANES)), np.empty((CHUNK, LANES))
        gate, part = np.empty((CHUNK, LANES)), np.empty((4, CHUNK, LANES))
        for n in range(span * _SPAN, min(chunks, (span + 1) * _SPAN)):
            start, count = n * CHUNK, min(CHUNK, tokens - n * CHUNK)
            for group in range(groups):
                first = group * LANES
                w, u, met = decay[first:], bonus[first:], rows[b, group, n]
                load(k, b, start, count, first, key)
                load(v, b, start, count, first, value)
                load(g, b, start, count, first, grad)
                if gated:
                    load(r, b, start, count, first, gate)
                # recomputed in the second pass: cheaper than writing and reading three float64 per element
                quotients(key, value, grad, gate, gated, count, w, u, sums[b, group, n], part)
                if not second:
                    summarise_gradients(part, count, w, met)
                else:
                    emit_gradients(key, value, count, w, u, met, part, shared[b, group, n])
                    store(part[2], count, dk, b, start, first)
                    store(part[3], count, dv, b, start, first)
                    if gated:
                        store(gate, count, dr, b, start, first)


@job_kernel(False)
def _gradient_surroundings(first_job, stop, decay, tokens, sums, rows):  # type: ignore[no-untyped-def]
    """Turn each chunk's sums of the gradients into those over all other chunks; a job is a group of a sample."""
    groups = sums.shape[1]
    for job in range(first_job, stop):
        b, group = job // groups, job % groups
        connect_gradients(rows[b, group], sums[b, group], tokens, decay[group * LANES :])


def _spans(sums: np.ndarray) -> int:
    """Return the number of spans of chunks of all samples."""
    return int(sums.shape[0] * -(-sums.shape[2] // _SPAN))


def _double(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().double().numpy()
    return array


def _padded(tensor: Tensor) -> np.ndarray:
    """Convert a (C,) tensor to float64, padded with zeros to whole groups of lanes."""
    return np.pad(_double(tensor), (0, -tensor.shape[0] % LANES))


def _prepare(
    w: Tensor, u: Tensor, k: np.ndarray, v: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return padded decay and bonus, the sums over other chunks, and the (sample, first channel) pairs left to
    ``stable.py``."""
    decay, bonus = _padded(w), _padded(u)
    batch, tokens = k.shape[0], k.shape[1] * k.shape[2]
    sums = np.empty((batch, decay.size // LANES, -(-tokens // CHUNK), 7, LANES))
    worst = np.empty(sums.shape[:2])
    _summaries(_spans(sums), decay, k, v, sums)
    _surroundings(worst.size, decay, tokens, sums, worst)
    growth = (-decay * min(CHUNK, tokens)).reshape(-1, LANES).max(1)
    wild = (worst + np.abs(bonus).reshape(-1, LANES).max(1) > _FURTHEST) | (growth > _GROWTH)
    if tokens == 1:  # y must equal v to the last bit, but a product followed by a quotient rounds
        wild[:] = True
    return decay, bonus, sums, np.argwhere(wild) * [1, LANES]


def run(w: Tensor, u: Tensor, k: Tensor, v: Tensor, r: Tensor | None, y: Tensor) -> None:
    """Write y, multiplied by the sigmoid of r if r is given.

    All tensors are (B, outer, inner, C), read and written in that order of tokens; any strides, but the channel stride
    of ``y`` is 1.
    """
    keys, values = k.detach().numpy(), v.detach().numpy()
    gate = r.detach().numpy() if r is not None else keys
    decay, bonus, sums, wild = _prepare(w, u, keys, values)
    if len(wild) < sums.shape[0] * sums.shape[1]:
        _forward(_spans(sums), decay, bonus, keys, values, gate, r is not None, sums, y.numpy())
    if len(wild):
        found = _carefully(wild, w, u, k, v)
        for b, first in wild:
            at = (b, ..., slice(first, first + LANES))
            y[at] = found[at] if r is None else found[at] * r[at].sigmoid()


def _carefully(wild: np.ndarray, w: Tensor, u: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Compute y with ``stable.py`` for the pairs in ``wild``; other channels stay unwritten. Copies its input, unlike
    ``run``."""
    from medvit.kernels.bi_wkv import stable as careful

    y = torch.empty(k.shape, dtype=k.dtype)
    keys, values = (x.detach().flatten(1, 2).numpy() for x in (k, v))
    careful.forward(len(wild), wild, _double(w), _double(u), keys, values, y.flatten(1, 2).numpy())
    return y


def gradients(
    w: Tensor,
    u: Tensor,
    k: Tensor,
    v: Tensor,
    r: Tensor | None,
    grad: Tensor,
    out: tuple[Tensor, Tensor, Tensor | None],
) -> tuple[Tensor, Tensor]:
    """Return the gradients of w and u; write those of k, v and r to ``out``, laid out as y in ``run``."""
    dk, dv, dr = out
    keys, values, slope = k.detach().numpy(), v.detach().numpy(), grad.detach().numpy()
    gate = r.detach().numpy() if r is not None else keys
    channels = k.shape[3]
    decay, bonus, sums, wild = _prepare(w, u, keys, values)
    both = np.zeros((2, k.shape[0], decay.size))
    if len(wild) < sums.shape[0] * sums.shape[1]:
        rows, shared = np.empty((*sums.shape[:3], 8, LANES)), np.empty((*sums.shape[:3], 2, LANES))
        arguments = (
            decay, bonus, keys, values, gate, r is not None, slope, sums, rows, shared,
            dk.numpy(), dv.numpy(), (dr if dr is not None else dv).numpy(),
        )  # fmt: skip
        _backward(_spans(sums), False, *arguments)
        _gradient_surroundings(sums.shape[0] * sums.shape[1], decay, k.shape[1] * k.shape[2], sums, rows)
        _backward(_spans(sums), True, *arguments)
        both[:] = shared.sum(2).transpose(2, 0, 1, 3).reshape(both.shape)
    dw, du = (np.ascontiguousarray(x[:, :channels]) for x in both)
    if len(wild):
        _careful_gradients(wild, (w, u, k, v, r), grad, (dw, du), out)
    return torch.from_numpy(dw.sum(0)).to(w.dtype), torch.from_numpy(du.sum(0)).to(u.dtype)


def _careful_gradients(
    wild: np.ndarray,
    inputs: tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None],
    grad: Tensor,
    shared: tuple[np.ndarray, np.ndarray],
    out: tuple[Tensor, Tensor, Tensor | None],
) -> None:
    from medvit.kernels.bi_wkv import stable as careful

    w, u, k, v, r = inputs
    open_by = r.detach().sigmoid() if r is not None else None
    slope = grad.detach() if open_by is None else grad.detach() * open_by
    dk, dv = (torch.empty(k.shape, dtype=k.dtype) for _ in range(2))
    flat = [x.detach().flatten(1, 2).contiguous().numpy() for x in (k, v, slope)]
    written = [x.flatten(1, 2).numpy() for x in (dk, dv)]
    careful.backward(len(wild), wild, _double(w), _double(u), *flat, *shared, *written)
    found = _carefully(wild, w, u, k, v) if open_by is not None else dk
    for b, first in wild:
        at = (b, ..., slice(first, first + LANES))
        out[0][at], out[1][at] = dk[at], dv[at]
        if out[2] is not None and open_by is not None:
            out[2][at] = grad[at] * found[at] * open_by[at] * (1 - open_by[at])


def forward(w: Tensor, u: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Compute y; arguments and result as ``bi_wkv_reference``, float32 or float64 on the CPU, any strides."""
    y = torch.empty(k.shape, dtype=k.dtype)
    run(w, u, k[:, None], v[:, None], None, y[:, None])
    return y


def backward(w: Tensor, u: Tensor, k: Tensor, v: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of w, u, k and v for the gradient of y."""
    dk, dv = (torch.empty(k.shape, dtype=k.dtype) for _ in range(2))
    # the gradient of a sum is an expanded tensor of stride zero; a copy avoids compiling the loops for such strides
    plain = grad.contiguous()
    dw, du = gradients(w, u, k[:, None], v[:, None], None, plain[:, None], (dk[:, None], dv[:, None], None))
    return dw, du, dk, dv
