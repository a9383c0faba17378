"""Triton kernels of the forward pass of Bi-WKV, three launches: sums of each chunk, sums over all other chunks,
outputs."""

from __future__ import annotations

import triton
import triton.language as tl

from medvit.kernels.bi_wkv.triton_blocks import LOG2E, NOTHING, join, load, meet, places, run_sums

__all__ = ["connect", "emit", "summarise"]


@triton.jit
def summarise(
    w, k, v, marks, sums, tokens, channels, chunks, inner,
    kb, ko, ki, kc, vb, vo, vi, vc,
    RUNS: tl.constexpr, LENGTH: tl.constexpr, WIDTH: tl.constexpr, KIND: tl.constexpr, FLAT: tl.constexpr,
):  # fmt: skip
    """Write the chunk's contributions to the tokens after and before it.

    ``marks`` (B, 3, chunk, C) float64: the maxima of the contributions after and before the chunk, and its largest key.
    ``sums`` (B, 4, chunk, C): the sums with and without values, for the tokens after it and for those before it.
    """
    n, b = tl.program_id(0), tl.program_id(2).to(tl.int64)
    c = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)[None, :]
    fits = c < channels
    run = tl.arange(0, RUNS)[:, None]
    first = (n * RUNS + run) * LENGTH
    decay = tl.load(w + c, mask=fits, other=0.0).to(KIND) * LOG2E
    at = places(first, tokens, inner, ko, ki, LENGTH, FLAT)
    raw = load(k + b * kb + c * kc, at, first, tokens, fits, NOTHING, KIND, LENGTH)
    at = places(first, tokens, inner, vo, vi, LENGTH, FLAT)
    values = load(v + b * vb + c * vc, at, first, tokens, fits, 0.0, KIND, LENGTH)
    top = raw[0]
    for j in tl.static_range(LENGTH):
        top = tl.maximum(top, raw[j])
    top = tl.max(top, 0)[None, :] * LOG2E
    keys = ()
    for j in tl.static_range(LENGTH):
        keys = keys + (raw[j] * LOG2E - top,)
    row = (b * 3 * chunks + n) * channels + c
    total = (b * 4 * chunks + n) * channels + c
    step = chunks.to(tl.int64) * channels
    for back in tl.static_range(2):
        m, one, two = run_sums(keys, values, decay, LENGTH, back == 1)
        m -= decay * ((run if back == 1 else RUNS - 1 - run) * LENGTH).to(KIND)
        most = tl.max(m, 0)[None, :]
        e = tl.exp2(m - most)
        tl.store(marks + row + back * step, most.to(tl.float64) + top.to(tl.float64), mask=fits)
        tl.store(sums + total + 2 * back * step, tl.sum(one * e, 0)[None, :], mask=fits)
        tl.store(sums + total + (2 * back + 1) * step, tl.sum(two * e, 0)[None, :], mask=fits)
    tl.store(marks + row + 2 * step, top.to(tl.float64), mask=fits)


@triton.jit
def connect(
    w, marks, sums, met_marks, met_sums, channels, chunks, tokens_each, ROWS: tl.constexpr, WIDTH: tl.constexpr
):
    """Accumulate the chunks' contributions to the sums over all tokens before and after each chunk.

    The output is (B, 2, chunk, C) maxima in float64 and (B, 4, chunk, C) sums.
    """
    back, b = tl.program_id(1), tl.program_id(2).to(tl.int64)
    c = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)[None, :]
    fits = c < channels
    row = tl.arange(0, ROWS)[:, None]
    step = chunks.to(tl.int64) * channels
    decay = tl.load(w + c, mask=fits, other=0.0).to(tl.float64) * LOG2E * tokens_each
    source = marks + (b * 3 + back) * step + c
    target = met_marks + (b * 2 + back) * step + c
    one_at, two_at = (b * 4 + 2 * back) * step + c, (b * 4 + 2 * back + 1) * step + c
    last = tl.broadcast_to(tl.maximum(row - 1, 0), (ROWS, WIDTH))
    cm = tl.zeros((1, WIDTH), tl.float64) + NOTHING
    cn = tl.zeros((1, WIDTH), sums.dtype.element_ty)
    cd = cn
    for start in range(0, chunks, ROWS):
        i = start + row
        here = fits & (i < chunks)
        n = tl.where(back == 1, chunks - 1 - i, i).to(tl.int64) * channels
        m = tl.load(source + n, mask=here, other=NOTHING)
        one = tl.load(sums + one_at + n, mask=here, other=0.0)
        two = tl.load(sums + two_at + n, mask=here, other=0.0)
        passed = tl.zeros_like(m) + decay
        passed, m, one, two = tl.associative_scan((passed, m, one, two), 0, join)
        # the state before a chunk is the accumulated state of the chunk before it
        em, en, ed = tl.gather(m, last, 0), tl.gather(one, last, 0), tl.gather(two, last, 0)
        em = tl.where(row == 0, NOTHING, em)
        en, ed = tl.where(row == 0, 0.0, en), tl.where(row == 0, 0.0, ed)
        zero, none = tl.zeros_like(m), tl.zeros_like(one)
        far, em, en, ed = join(zero, zero + cm, none + cn, none + cd, decay * row, em, en, ed)
        tl.store(target + n, em, mask=here)
        tl.store(met_sums + one_at + n, en, mask=here)
        tl.store(met_sums + two_at + n, ed, mask=here)
        end = row == ROWS - 1
        lm = tl.sum(tl.where(end, m, 0.0), 0)[None, :]
        ln, ld = tl.sum(tl.where(end, one, 0.0), 0)[None, :], tl.sum(tl.where(end, two, 0.0), 0)[None, :]
        far, cm, cn, cd = join(decay * 0.0, cm, cn, cd, decay * ROWS, lm, ln, ld)


@triton.jit
def carried(marks, met_marks, met_sums, b, n, c, fits, channels, chunks, KIND: tl.constexpr):
    """Load the largest key in or around the chunk, and the sums around the chunk divided by exp of that key."""
    step = chunks.to(tl.int64) * channels
    row = n.to(tl.int64) * channels + c
    up = tl.load(met_marks + b * 2 * step + row, mask=fits, other=NOTHING)
    down = tl.load(met_marks + (b * 2 + 1) * step + row, mask=fits, other=NOTHING)
    own = tl.load(marks + (b * 3 + 2) * step + row, mask=fits, other=0.0)
    top = tl.maximum(own, tl.maximum(up, down)).to(KIND)
    at = met_sums + b * 4 * step + row
    carry = (
        (up - top.to(tl.float64)).to(KIND), tl.load(at, mask=fits, other=0.0), tl.load(at + step, mask=fits, other=0.0),
        (down - top.to(tl.float64)).to(KIND),
        tl.load(at + 2 * step, mask=fits, other=0.0), tl.load(at + 3 * step, mask=fits, other=0.0),
    )  # fmt: skip
    return top, carry


@triton.jit
def emit(
    w, u, k, v, r, y, marks, met_marks, met_sums, tokens, channels, chunks, inner,
    kb, ko, ki, kc, vb, vo, vi, vc, rb, ro, ri, rc, yb, yo, yi, yc,
    RUNS: tl.constexpr, LENGTH: tl.constexpr, WIDTH: tl.constexpr, KIND: tl.constexpr, FLAT: tl.constexpr,
    GATED: tl.constexpr,
):  # fmt: skip
    """Write y, multiplied by the sigmoid of r if ``GATED``."""
    n, b = tl.program_id(0), tl.program_id(2).to(tl.int64)
    c = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)[None, :]
    fits = c < channels
    first = (n * RUNS + tl.arange(0, RUNS)[:, None]) * LENGTH
    decay = tl.load(w + c, mask=fits, other=0.0).to(KIND) * LOG2E
    bonus = tl.load(u + c, mask=fits, other=0.0).to(KIND) * LOG2E
    at = places(first, tokens, inner, ko, ki, LENGTH, FLAT)
    raw = load(k + b * kb + c * kc, at, first, tokens, fits, NOTHING, KIND, LENGTH)
    at = places(first, tokens, inner, vo, vi, LENGTH, FLAT)
    values = load(v + b * vb + c * vc, at, first, tokens, fits, 0.0, KIND, LENGTH)
    top, carry = carried(marks, met_marks, met_sums, b, n, c, fits, channels, chunks, KIND)
    keys = ()
    for j in tl.static_range(LENGTH):
        keys = keys + (raw[j] * LOG2E - top,)
    tops, aboves, unders = meet(keys, values, decay, bonus, carry, RUNS, LENGTH)
    at = places(first, tokens, inner, yo, yi, LENGTH, FLAT)
    if GATED:
        beside = places(first, tokens, inner, ro, ri, LENGTH, FLAT)
        gates = load(r + b * rb + c * rc, beside, first, tokens, fits, 0.0, KIND, LENGTH)
    for j in tl.static_range(LENGTH):
        out = aboves[j] / unders[j]
        if GATED:
            out = out / (1.0 + tl.exp2(gates[j] * -LOG2E))
        tl.store(y + b * yb + c * yc + at[j], out.to(y.dtype.element_ty), mask=fits & (first + j < tokens))
