"""Functions shared by the forward and backward Triton kernels: tiles of runs, and the sums of their tokens over a
running maximum.

A program holds ``RUNS`` runs of ``LENGTH`` tokens for ``WIDTH`` channels. A thread keeps a run of one channel in
registers, so all its loads are issued at once and a step of the recurrence costs one exponential. Exponents are in
units of ln 2. Keys are relative to one number per chunk and channel, so that in single precision the largest terms are
the most accurate.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["LOG2E", "NOTHING", "empty", "join", "load", "meet", "places", "run_sums", "runs_before", "step"]

LOG2E = tl.constexpr(1.4426950408889634)
NOTHING = tl.constexpr(-1e30)
"""Maximum of an empty set of keys. It is finite, since infinity minus infinity is NaN."""


@triton.jit
def places(first, tokens, inner, outer_stride, inner_stride, LENGTH: tl.constexpr, FLAT: tl.constexpr):
    """Compute the offsets of the tokens of each run; token t is element t % inner of row (or column) t // inner."""
    out = ()
    for j in tl.static_range(LENGTH):
        t = tl.minimum(first + j, tokens - 1)
        if FLAT:
            at = t.to(tl.int64) * inner_stride
        else:
            at = (t // inner).to(tl.int64) * outer_stride + (t % inner).to(tl.int64) * inner_stride
        out = out + (at,)  # Triton does not support unpacking
    return out


@triton.jit
def load(base, at, first, tokens, fits, empty, KIND: tl.constexpr, LENGTH: tl.constexpr):
    """Load the numbers of a run; ``empty`` past the last token, 0 past the last channel."""
    out = ()
    for j in tl.static_range(LENGTH):
        x = tl.load(base + at[j], mask=fits & (first + j < tokens), other=0.0).to(KIND)
        out = out + (tl.where(first + j < tokens, x, empty),)
    return out


@triton.jit
def join(c1, m1, n1, d1, c2, m2, n2, d2):
    """Combine two consecutive ranges of tokens; each is (decay, maximum, sum with values, sum without)."""
    old = m1 - c2
    m = tl.maximum(old, m2)
    a, b = tl.exp2((old - m).to(n1.dtype)), tl.exp2((m2 - m).to(n1.dtype))
    return c1 + c2, m, n1 * a + n2 * b, d1 * a + d2 * b


@triton.jit
def step(m, n, d, decay, key, one, two):
    """Decay the sums by one step and add a token undecayed; one of the two weights is 1."""
    gap = m - decay - key
    e = tl.exp2(-tl.abs(gap))
    keep, add = tl.where(gap >= 0, 1.0, e), tl.where(gap >= 0, e, 1.0)
    return tl.maximum(m - decay, key), n * keep + one * add, d * keep + two * add


@triton.jit
def empty(like):
    """Return the state before the first token."""
    zero = tl.zeros_like(like)
    return zero + NOTHING, zero, zero


@triton.jit
def run_sums(keys, values, decay, LENGTH: tl.constexpr, BACK: tl.constexpr):
    """Compute a run's contribution to the token after it (before it if ``BACK``): maximum, sum of values, sum of
    weights."""
    m, n, d = empty(keys[0])
    for j in tl.static_range(LENGTH):
        m = tl.maximum(m, keys[j] - decay * (j if BACK else LENGTH - 1 - j))
    for j in tl.static_range(LENGTH):
        e = tl.exp2(keys[j] - decay * (j if BACK else LENGTH - 1 - j) - m)
        n += e * values[j]
        d += e
    return m, n, d


@triton.jit
def runs_before(m, n, d, decay, cm, cn, cd, RUNS: tl.constexpr, LENGTH: tl.constexpr, BACK: tl.constexpr):
    """Compute the state before the first token of each run (after the last if ``BACK``), from the state before the
    program."""
    run = tl.broadcast_to(tl.arange(0, RUNS)[:, None], m.shape)
    order = RUNS - 1 - run if BACK else run  # number of runs before this one in the direction of the scan
    if BACK:
        # reversed by gather, since Triton's own reverse scan has known faults
        m, n, d = tl.gather(m, order, 0), tl.gather(n, order, 0), tl.gather(d, order, 0)
    passed = tl.zeros_like(m) + decay * LENGTH
    passed, m, n, d = tl.associative_scan((passed, m, n, d), 0, join)
    last = tl.maximum(order - 1, 0)
    m, n, d = tl.gather(m, last, 0), tl.gather(n, last, 0), tl.gather(d, last, 0)
    m, n, d = tl.where(order == 0, NOTHING, m), tl.where(order == 0, 0.0, n), tl.where(order == 0, 0.0, d)
    zero = tl.zeros_like(m)
    far, m, n, d = join(zero, zero + cm, zero + cn, zero + cd, decay * (order * LENGTH).to(m.dtype), m, n, d)
    return m, n, d


@triton.jit
def meet(keys, values, decay, bonus, carry, RUNS: tl.constexpr, LENGTH: tl.constexpr):
    """Compute for each token of each run the sums over all tokens: maximum, sum with values, sum without.

    ``carry``: the states before the program's first token and after its last one, (maximum, two sums) each.
    """
    m, n, d = run_sums(keys, values, decay, LENGTH, False)
    m, n, d = runs_before(m, n, d, decay, carry[0], carry[1], carry[2], RUNS, LENGTH, False)
    tops, aboves, unders = (), (), ()
    for j in tl.static_range(LENGTH):
        top, above, under = step(m, n, d, 0.0, bonus + keys[j], values[j], 1.0)
        tops, aboves, unders = tops + (top,), aboves + (above,), unders + (under,)
        m, n, d = step(m, n, d, decay, keys[j], values[j], 1.0)
    m, n, d = run_sums(keys, values, decay, LENGTH, True)
    m, n, d = runs_before(m, n, d, decay, carry[3], carry[4], carry[5], RUNS, LENGTH, True)
    all_tops, all_aboves, all_unders = (), (), ()
    for j in tl.static_range(LENGTH - 1, -1, -1):
        gap = tops[j] - m
        e = tl.exp2(-tl.abs(gap))
        ours, theirs = tl.where(gap >= 0, 1.0, e), tl.where(gap >= 0, e, 1.0)
        all_tops = (tl.maximum(tops[j], m),) + all_tops
        all_aboves = (aboves[j] * ours + n * theirs,) + all_aboves
        all_unders = (unders[j] * ours + d * theirs,) + all_unders
        m, n, d = step(m, n, d, decay, keys[j], values[j], 1.0)
    return all_tops, all_aboves, all_unders
