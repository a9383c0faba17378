"""Bi-WKV on the CPU for keys, decays and bonuses of any size: every sum is divided by the exponential of its own
running maximum.

For keys κ and values a, both operators below need, at each token t, the weighted sums over the tokens before and after
it. A state (maximum, sums) is carried in each direction. The forward sweep runs once and keeps one state per chunk of
tokens; the backward sweep then repeats the forward sweep one chunk at a time, so that both directions meet in cache and
memory does not grow with T. This is several times slower than ``blocked.py``, which is used wherever exponents are
moderate.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from medvit.kernels.bi_wkv.exponential import LIMIT, LN2_HIGH, LN2_LOW, LOG2E, ROUND, taylor
from medvit.kernels.numba_support import job_kernel

__all__ = ["backward", "forward"]

_LANES = 8
_CHUNK = 128
_NOTHING = -1e300
"""Maximum of an empty set of keys. It is finite, since infinity minus infinity is NaN."""

_STRICT = {"contract", "nsz"}
"""LLVM fast-math flags. They allow fused multiply-add, but not the assumption that there is no NaN, so NaN propagates."""


@intrinsic  # type: ignore[untyped-decorator]
def _power_of_two(typingctx: Any, shifted: Any) -> Any:
    """Compute 2^n from the low bits of n + ``ROUND``, by moving n to the exponent bits without a conversion."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        word = ir.IntType(64)
        bits = builder.bitcast(args[0], word)
        bits = builder.shl(builder.add(bits, ir.Constant(word, 1023)), ir.Constant(word, 52))
        return builder.bitcast(bits, ir.DoubleType())

    return types.float64(types.float64), codegen


@njit(inline="always", fastmath=_STRICT)
def _exp(x):  # type: ignore[no-untyped-def]
    """Compute exp for x <= 0 without branches: an integer power of two times the Taylor series on |r| <= ln 2 / 2
    (4e-18)."""
    x = x if x > -LIMIT else -LIMIT
    shifted = x * LOG2E + ROUND
    whole = shifted - ROUND
    r = (x - whole * LN2_HIGH) - whole * LN2_LOW
    p = 1 / 6227020800 * r + 1 / 479001600
    p = p * r + 1 / 39916800
    return taylor(p, r) * _power_of_two(shifted)


@njit(fastmath=_STRICT)
def _exp_all(block):  # type: ignore[no-untyped-def]
    """Compute exp in place. This loop takes most of the time; it is so simple that the compiler vectorises it."""
    flat = block.reshape(-1)
    for n in range(flat.shape[0]):
        flat[n] = _exp(flat[n])


@njit(fastmath=_STRICT)
def _sweep(key, one, two, count, back, decay, state, met, gap, weight):  # type: ignore[no-untyped-def]
    """Carry the sums over a chunk: at each token the sums decay by one step, then the token is added undecayed.

    Args:
        key, one, two: (token, lane); the first ``count`` tokens are used, in reverse order if ``back``.
        state: (5, lane): maximum m, sums of one and of two, and minus their derivatives in the decay; all divided by
            exp(m).
        met: (5, token, lane), output: the state before each token; with 3 rows, the derivatives are left out.
        gap, weight: (token, lane) scratch.
    """
    # the maxima do not depend on the sums, so all exponentials of the chunk can be computed together in between
    for n in range(count):
        t = count - 1 - n if back else n
        for c in range(_LANES):
            met[0, t, c] = state[0, c]
            old = state[0, c] - decay[c]
            gap[t, c] = old - key[t, c]
            weight[t, c] = -abs(gap[t, c])
            state[0, c] = old if old > key[t, c] else key[t, c]
    _exp_all(weight[:count])
    for n in range(count):
        t = count - 1 - n if back else n
        for c in range(_LANES):
            keep = 1.0 if gap[t, c] >= 0 else weight[t, c]
            join = weight[t, c] if gap[t, c] >= 0 else 1.0
            a, b = state[1, c], state[2, c]
            met[1, t, c], met[2, t, c] = a, b
            state[1, c] = keep * a + join * one[t, c]
            state[2, c] = keep * b + join * two[t, c]
    if met.shape[0] == 5:
        for n in range(count):
            t = count - 1 - n if back else n
            for c in range(_LANES):
                keep = 1.0 if gap[t, c] >= 0 else weight[t, c]
                a, b = state[3, c], state[4, c]
                met[3, t, c], met[4, t, c] = a, b
                state[3, c] = keep * (a + met[1, t, c])
                state[4, c] = keep * (b + met[2, t, c])


@njit(inline="always")
def _clear(state):  # type: ignore[no-untyped-def]
    state[:] = 0.0
    state[0, :] = _NOTHING


@njit(inline="always")
def _load(source, start, stop, first, block):  # type: ignore[no-untyped-def]
    """Copy tokens start..stop of the lanes from channel ``first`` as float64; lanes past the last channel are
    unchanged."""
    lanes = min(_LANES, source.shape[1] - first)
    for t in range(start, stop):
        for c in range(lanes):
            block[t - start, c] = source[t, first + c]


@njit(fastmath=_STRICT)
def _average(k, v, first, decay, bonus, y, at, rest):  # type: ignore[no-untyped-def]
    """Write eight channels of y from column ``at``; if ``rest`` is not empty, also the denominators as (maximum,
    sum)."""
    tokens, lanes = k.shape[0], min(_LANES, y.shape[1] - at)
    key, value, ones = np.zeros((_CHUNK, _LANES)), np.zeros((_CHUNK, _LANES)), np.ones((_CHUNK, _LANES))
    gap, weight = np.empty((_CHUNK, _LANES)), np.empty((3, _CHUNK, _LANES))
    before, after = np.empty((3, _CHUNK, _LANES)), np.empty((3, _CHUNK, _LANES))
    low = np.empty(((tokens + _CHUNK - 1) // _CHUNK, 5, _LANES))  # the state at the start of each chunk
    state = np.empty((5, _LANES))
    _clear(state)
    for n in range(low.shape[0]):
        start, stop = n * _CHUNK, min(tokens, (n + 1) * _CHUNK)
        low[n] = state
        _load(k, start, stop, first, key)
        _load(v, start, stop, first, value)
        _sweep(key, value, ones, stop - start, False, decay, state, before, gap, weight[0])
    _clear(state)
    for n in range(low.shape[0] - 1, -1, -1):
        start, stop = n * _CHUNK, min(tokens, (n + 1) * _CHUNK)
        _load(k, start, stop, first, key)
        _load(v, start, stop, first, value)
        _sweep(key, value, ones, stop - start, False, decay, low[n], before, gap, weight[0])
        _sweep(key, value, ones, stop - start, True, decay, state, after, gap, weight[0])
        for t in range(stop - start):
            for c in range(_LANES):
                own, a, b = bonus[c] + key[t, c], before[0, t, c], after[0, t, c]
                top = max(own, max(a, b))
                gap[t, c] = top
                weight[0, t, c], weight[1, t, c], weight[2, t, c] = a - top, b - top, own - top
        _exp_all(weight)
        for t in range(stop - start):
            for c in range(lanes):
                a, b, e = weight[0, t, c], weight[1, t, c], weight[2, t, c]
                under = a * before[2, t, c] + b * after[2, t, c] + e
                y[start + t, at + c] = (a * before[1, t, c] + b * after[1, t, c] + e * value[t, c]) / under
                if rest.shape[0]:
                    rest[start + t, 0, c], rest[start + t, 1, c] = gap[t, c], under


@job_kernel(_STRICT)
def forward(first_job, stop, which, w, u, k, v, y):  # type: ignore[no-untyped-def]
    """Write y for the (sample, first channel) pairs in ``which``, (pair, 2)."""
    channels = k.shape[2]
    for job in range(first_job, stop):
        b, first = which[job, 0], which[job, 1]
        lanes = min(_LANES, channels - first)
        decay, bonus = np.zeros(_LANES), np.zeros(_LANES)
        decay[:lanes], bonus[:lanes] = w[first : first + lanes], u[first : first + lanes]
        _average(k[b], v[b], first, decay, bonus, y[b], first, np.empty((0, 2, _LANES)))


@njit(fastmath=_STRICT)
def _adjoint(k, v, first, decay, bonus, own, one, two, dk, dv):  # type: ignore[no-untyped-def]
    """Compute the gradients of eight channels with the recurrence of the forward pass.

    In this second use of the recurrence, the keys are the negated logarithms of the denominators D, and the values are
    g / D and g y / D, where g is the gradient of y.
    own: (T, lane) minus the maximum exponent of each denominator.
    one, two: (T, lane) g / D and g y / D, relative to that maximum.
    Writes dk and dv in place; returns (2, lane) gradients of w and u.
    """
    tokens, lanes = k.shape[0], min(_LANES, k.shape[1] - first)
    key, value, shared = np.zeros((_CHUNK, _LANES)), np.zeros((_CHUNK, _LANES)), np.zeros((2, _LANES))
    gap, weight = np.empty((_CHUNK, _LANES)), np.empty((3, _CHUNK, _LANES))
    before, after = np.empty((5, _CHUNK, _LANES)), np.empty((5, _CHUNK, _LANES))
    low = np.empty(((tokens + _CHUNK - 1) // _CHUNK, 5, _LANES))
    state = np.empty((5, _LANES))
    _clear(state)
    for n in range(low.shape[0]):
        start, stop = n * _CHUNK, min(tokens, (n + 1) * _CHUNK)
        low[n] = state
        _sweep(own[start:], one[start:], two[start:], stop - start, False, decay, state, before, gap, weight[0])
    _clear(state)
    for n in range(low.shape[0] - 1, -1, -1):
        start, stop = n * _CHUNK, min(tokens, (n + 1) * _CHUNK)
        _load(k, start, stop, first, key)
        _load(v, start, stop, first, value)
        _sweep(own[start:], one[start:], two[start:], stop - start, False, decay, low[n], before, gap, weight[0])
        _sweep(own[start:], one[start:], two[start:], stop - start, True, decay, state, after, gap, weight[0])
        for t in range(stop - start):
            for c in range(_LANES):
                # all three are at most 0, since each denominator includes the term of this key
                weight[0, t, c], weight[1, t, c] = key[t, c] + before[0, t, c], key[t, c] + after[0, t, c]
                weight[2, t, c] = key[t, c] + bonus[c] + own[start + t, c]
        _exp_all(weight)
        for t in range(stop - start):
            s = start + t
            for c in range(lanes):
                a, b, e, x = weight[0, t, c], weight[1, t, c], weight[2, t, c], value[t, c]
                da = a * before[1, t, c] + b * after[1, t, c] + e * one[s, c]
                db = a * before[2, t, c] + b * after[2, t, c] + e * two[s, c]
                dv[s, first + c] = da
                dk[s, first + c] = x * da - db
                fall = x * (a * before[3, t, c] + b * after[3, t, c]) - (a * before[4, t, c] + b * after[4, t, c])
                shared[0, c] -= fall
                shared[1, c] += e * (x * one[s, c] - two[s, c])
    return shared


@job_kernel(_STRICT)
def backward(first_job, stop, which, w, u, k, v, g, dw, du, dk, dv):  # type: ignore[no-untyped-def]
    """Write the gradients for the (sample, first channel) pairs in ``which``; dw and du are (sample, channel)."""
    _, tokens, channels = k.shape
    for job in range(first_job, stop):
        b, first = which[job, 0], which[job, 1]
        lanes = min(_LANES, channels - first)
        decay, bonus = np.zeros(_LANES), np.zeros(_LANES)
        decay[:lanes], bonus[:lanes] = w[first : first + lanes], u[first : first + lanes]
        two, rest = np.zeros((tokens, _LANES)), np.empty((tokens, 2, _LANES))
        # y is recomputed in float64: cheaper than keeping it, and the gradient of k is a difference from y
        _average(k[b], v[b], first, decay, bonus, two, 0, rest)
        own, one = np.empty((tokens, _LANES)), np.zeros((tokens, _LANES))
        for t in range(tokens):
            for c in range(lanes):
                one[t, c] = g[b, t, first + c] / rest[t, 1, c]
            for c in range(_LANES):
                own[t, c] = -rest[t, 0, c]
                two[t, c] *= one[t, c]
        shared = _adjoint(k[b], v[b], first, decay, bonus, own, one, two, dk[b], dv[b])
        dw[b, first : first + lanes] = shared[0, :lanes]
        du[b, first : first + lanes] = shared[1, :lanes]
