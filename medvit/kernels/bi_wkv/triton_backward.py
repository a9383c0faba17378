"""Triton kernels of the gradients of Bi-WKV: the same recurrence, with minus the logarithms of the denominators as keys
(README)."""

from __future__ import annotations

import triton
import triton.language as tl

from medvit.kernels.bi_wkv.triton_blocks import LOG2E, NOTHING, load, meet, places
from medvit.kernels.bi_wkv.triton_forward import carried

__all__ = ["connect_gradients", "emit_gradients", "summarise_gradients"]


@triton.jit
def _join(c1, l1, m1, a1, b1, f1, g1, c2, l2, m2, a2, b2, f2, g2):
    """Combine two consecutive ranges of tokens; each is (decay, length, maximum, A, B, A', B')."""
    old = m1 - c2
    m = tl.maximum(old, m2)
    x, y = tl.exp2((old - m).to(a1.dtype)), tl.exp2((m2 - m).to(a1.dtype))
    return (
        c1 + c2, l1 + l2, m, a1 * x + a2 * y, b1 * x + b2 * y,
        (f1 + l2 * a1) * x + f2 * y, (g1 + l2 * b1) * x + g2 * y,
    )  # fmt: skip


@triton.jit
def _step(m, a, b, f, g, decay, key, one, two):
    gap = m - decay - key
    e = tl.exp2(-tl.abs(gap))
    keep, add = tl.where(gap >= 0, 1.0, e), tl.where(gap >= 0, e, 1.0)
    return tl.maximum(m - decay, key), a * keep + one * add, b * keep + two * add, (f + a) * keep, (g + b) * keep


@triton.jit
def _run_sums(keys, ones, twos, decay, LENGTH: tl.constexpr, BACK: tl.constexpr):
    m = tl.zeros_like(keys[0]) + NOTHING
    for j in tl.static_range(LENGTH):
        m = tl.maximum(m, keys[j] - decay * (j if BACK else LENGTH - 1 - j))
    a = tl.zeros_like(m)
    b, f, g = a, a, a
    for j in tl.static_range(LENGTH):
        far = j if BACK else LENGTH - 1 - j
        e = tl.exp2(keys[j] - decay * far - m)
        x, y = e * ones[j], e * twos[j]
        a, b, f, g = a + x, b + y, f + x * far, g + y * far
    return m, a, b, f, g


@triton.jit
def _before(order, a):
    return tl.where(order == 0, 0.0, tl.gather(a, tl.maximum(order - 1, 0), 0))


@triton.jit
def _runs_before(
    m, a, b, f, g, decay, cm, ca, cb, cf, cg, RUNS: tl.constexpr, LENGTH: tl.constexpr, BACK: tl.constexpr
):
    run = tl.broadcast_to(tl.arange(0, RUNS)[:, None], m.shape)
    order = RUNS - 1 - run if BACK else run
    if BACK:
        m, a, b = tl.gather(m, order, 0), tl.gather(a, order, 0), tl.gather(b, order, 0)
        f, g = tl.gather(f, order, 0), tl.gather(g, order, 0)
    zero = tl.zeros_like(m)
    passed, length = zero + decay * LENGTH, zero + LENGTH
    passed, length, m, a, b, f, g = tl.associative_scan((passed, length, m, a, b, f, g), 0, _join)
    m = tl.where(order == 0, NOTHING, tl.gather(m, tl.maximum(order - 1, 0), 0))
    a, b, f, g = _before(order, a), _before(order, b), _before(order, f), _before(order, g)
    length = zero + (order * LENGTH).to(m.dtype)
    c, length, m, a, b, f, g = _join(
        zero, zero, zero + cm, zero + ca, zero + cb, zero + cf, zero + cg, decay * length, length, m, a, b, f, g
    )
    return m, a, b, f, g


@triton.jit
def _quotients(
    w, u, k, v, g, r, marks, met_marks, met_sums, b, n, c, fits, first, tokens, channels, chunks, inner,
    kb, ko, ki, kc, vb, vo, vi, vc, rb, ro, ri, rc, gb, go, gi, gc,
    RUNS: tl.constexpr, LENGTH: tl.constexpr, KIND: tl.constexpr, FLAT: tl.constexpr, GATED: tl.constexpr,
):  # fmt: skip
    """Load keys and values; compute for each token minus the logarithm of its denominator, g / D, g y / D and the
    gradient of r."""
    decay = tl.load(w + c, mask=fits, other=0.0).to(KIND) * LOG2E
    bonus = tl.load(u + c, mask=fits, other=0.0).to(KIND) * LOG2E
    at = places(first, tokens, inner, ko, ki, LENGTH, FLAT)
    raw = load(k + b * kb + c * kc, at, first, tokens, fits, NOTHING, KIND, LENGTH)
    at = places(first, tokens, inner, vo, vi, LENGTH, FLAT)
    values = load(v + b * vb + c * vc, at, first, tokens, fits, 0.0, KIND, LENGTH)
    at = places(first, tokens, inner, go, gi, LENGTH, FLAT)
    grads = load(g + b * gb + c * gc, at, first, tokens, fits, 0.0, KIND, LENGTH)
    if GATED:
        at = places(first, tokens, inner, ro, ri, LENGTH, FLAT)
        gates = load(r + b * rb + c * rc, at, first, tokens, fits, 0.0, KIND, LENGTH)
    top, carry = carried(marks, met_marks, met_sums, b, n, c, fits, channels, chunks, KIND)
    keys = ()
    for j in tl.static_range(LENGTH):
        keys = keys + (raw[j] * LOG2E - top,)
    tops, aboves, unders = meet(keys, values, decay, bonus, carry, RUNS, LENGTH)
    logs, ones, twos, gate_grads = (), (), (), ()
    for j in tl.static_range(LENGTH):
        y = aboves[j] / unders[j]
        grad = grads[j]
        if GATED:
            open = 1.0 / (1.0 + tl.exp2(gates[j] * -LOG2E))
            gate_grads = gate_grads + (grad * y * open * (1.0 - open),)
            grad = grad * open
        one = grad / unders[j]
        # tokens past the last one get weight zero here; the sums above did not include them either
        logs = logs + (tl.where(first + j < tokens, -tops[j], NOTHING),)
        ones, twos = ones + (one,), twos + (one * y,)
    return top, decay, bonus, keys, values, logs, ones, twos, gate_grads


@triton.jit
def summarise_gradients(
    w, u, k, v, g, r, marks, met_marks, met_sums, grad_marks, grad_sums, tokens, channels, chunks, inner,
    kb, ko, ki, kc, vb, vo, vi, vc, rb, ro, ri, rc, gb, go, gi, gc,
    RUNS: tl.constexpr, LENGTH: tl.constexpr, WIDTH: tl.constexpr, KIND: tl.constexpr, FLAT: tl.constexpr,
    GATED: tl.constexpr,
):  # fmt: skip
    """Write the chunk's contributions to the tokens after and before it.

    ``grad_marks`` (B, 2, chunk, C) float64: the maxima. ``grad_sums`` (B, 8, chunk, C): A, B, A', B' for each
    direction.
    """
    n, b = tl.program_id(0), tl.program_id(2).to(tl.int64)
    c = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)[None, :]
    fits = c < channels
    run = tl.arange(0, RUNS)[:, None]
    top, decay, _u, _k, _v, logs, ones, twos, _r = _quotients(
        w, u, k, v, g, r, marks, met_marks, met_sums, b, n, c, fits, (n * RUNS + run) * LENGTH,
        tokens, channels, chunks, inner,
        kb, ko, ki, kc, vb, vo, vi, vc, rb, ro, ri, rc, gb, go, gi, gc, RUNS, LENGTH, KIND, FLAT, GATED,
    )  # fmt: skip
    size = chunks.to(tl.int64) * channels
    row = n.to(tl.int64) * channels + c
    for back in tl.static_range(2):
        m, one, two, f, h = _run_sums(logs, ones, twos, decay, LENGTH, back == 1)
        far = ((run if back == 1 else RUNS - 1 - run) * LENGTH).to(KIND)
        m -= decay * far
        most = tl.max(m, 0)[None, :]
        e = tl.exp2(m - most)
        tl.store(grad_marks + (b * 2 + back) * size + row, most.to(tl.float64) - top.to(tl.float64), mask=fits)
        at = grad_sums + (b * 8 + 4 * back) * size + row
        tl.store(at, tl.sum(one * e, 0)[None, :], mask=fits)
        tl.store(at + size, tl.sum(two * e, 0)[None, :], mask=fits)
        tl.store(at + 2 * size, tl.sum((f + far * one) * e, 0)[None, :], mask=fits)
        tl.store(at + 3 * size, tl.sum((h + far * two) * e, 0)[None, :], mask=fits)


@triton.jit
def _last(x, row, ROWS: tl.constexpr):
    return tl.sum(tl.where(row == ROWS - 1, x, 0.0), 0)[None, :]


@triton.jit
def connect_gradients(
    w, grad_marks, grad_sums, met_marks, met_sums, channels, chunks, tokens_each, ROWS: tl.constexpr, WIDTH: tl.constexpr
):  # fmt: skip
    """Accumulate the chunks' contributions to the sums over all tokens before and after each chunk; shapes are
    unchanged."""
    back, b = tl.program_id(1), tl.program_id(2).to(tl.int64)
    c = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)[None, :]
    fits = c < channels
    row = tl.broadcast_to(tl.arange(0, ROWS)[:, None], (ROWS, WIDTH))
    size = chunks.to(tl.int64) * channels
    decay = tl.load(w + c, mask=fits, other=0.0).to(tl.float64) * LOG2E * tokens_each
    mark, at = (b * 2 + back) * size + c, (b * 8 + 4 * back) * size + c
    cm = tl.zeros((1, WIDTH), tl.float64) + NOTHING
    ca = tl.zeros((1, WIDTH), grad_sums.dtype.element_ty)
    cb, cf, cg = ca, ca, ca
    for start in range(0, chunks, ROWS):
        i = start + row
        here = fits & (i < chunks)
        n = tl.where(back == 1, chunks - 1 - i, i).to(tl.int64) * channels
        m = tl.load(grad_marks + mark + n, mask=here, other=NOTHING)
        a = tl.load(grad_sums + at + n, mask=here, other=0.0)
        b2 = tl.load(grad_sums + at + size + n, mask=here, other=0.0)
        f = tl.load(grad_sums + at + 2 * size + n, mask=here, other=0.0)
        g = tl.load(grad_sums + at + 3 * size + n, mask=here, other=0.0)
        zero = tl.zeros_like(a)
        passed, length = tl.zeros_like(m) + decay, zero + tokens_each
        passed, length, m, a, b2, f, g = tl.associative_scan((passed, length, m, a, b2, f, g), 0, _join)
        em = tl.where(row == 0, NOTHING, tl.gather(m, tl.maximum(row - 1, 0), 0))
        ea, eb, ef, eg = _before(row, a), _before(row, b2), _before(row, f), _before(row, g)
        steps = row * tokens_each
        _c, _l, em, ea, eb, ef, eg = _join(
            passed * 0.0, zero, cm + passed * 0.0, zero + ca, zero + cb, zero + cf, zero + cg,
            decay * row, steps.to(zero.dtype), em, ea, eb, ef, eg,
        )  # fmt: skip
        tl.store(met_marks + mark + n, em, mask=here)
        tl.store(met_sums + at + n, ea, mask=here)
        tl.store(met_sums + at + size + n, eb, mask=here)
        tl.store(met_sums + at + 2 * size + n, ef, mask=here)
        tl.store(met_sums + at + 3 * size + n, eg, mask=here)
        whole = (ROWS * tokens_each + 0 * ca).to(ca.dtype)
        _c, _l, cm, ca, cb, cf, cg = _join(
            decay * 0.0, 0 * ca, cm, ca, cb, cf, cg, decay * ROWS, whole,
            _last(m, row, ROWS), _last(a, row, ROWS), _last(b2, row, ROWS), _last(f, row, ROWS), _last(g, row, ROWS),
        )  # fmt: skip


@triton.jit
def _carried_gradients(grad_met_marks, grad_met_sums, b, n, c, back, top, fits, channels, chunks, KIND: tl.constexpr):
    size = chunks.to(tl.int64) * channels
    row = n.to(tl.int64) * channels + c
    m = tl.load(grad_met_marks + (b * 2 + back) * size + row, mask=fits, other=NOTHING)
    at = grad_met_sums + (b * 8 + 4 * back) * size + row
    one, two = tl.load(at, mask=fits, other=0.0), tl.load(at + size, mask=fits, other=0.0)
    f, h = tl.load(at + 2 * size, mask=fits, other=0.0), tl.load(at + 3 * size, mask=fits, other=0.0)
    return (m + top.to(tl.float64)).to(KIND), one, two, f, h


@triton.jit
def emit_gradients(
    w, u, k, v, g, r, marks, met_marks, met_sums, grad_met_marks, grad_met_sums, dw, du, dk, dv, dr,
    tokens, channels, chunks, inner,
    kb, ko, ki, kc, vb, vo, vi, vc, rb, ro, ri, rc, gb, go, gi, gc, db, do, di, dc,
    RUNS: tl.constexpr, LENGTH: tl.constexpr, WIDTH: tl.constexpr, KIND: tl.constexpr, FLAT: tl.constexpr,
    GATED: tl.constexpr, ADD: tl.constexpr,
):  # fmt: skip
    """Write dk (or add to it if ``ADD``), dv and dr, all of strides db, do, di, dc; write dw and du of each chunk, (B,
    chunk, C)."""
    n, b = tl.program_id(0), tl.program_id(2).to(tl.int64)
    c = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)[None, :]
    fits = c < channels
    first = (n * RUNS + tl.arange(0, RUNS)[:, None]) * LENGTH
    top, decay, bonus, keys, values, logs, ones, twos, gate_grads = _quotients(
        w, u, k, v, g, r, marks, met_marks, met_sums, b, n, c, fits, first, tokens, channels, chunks, inner,
        kb, ko, ki, kc, vb, vo, vi, vc, rb, ro, ri, rc, gb, go, gi, gc, RUNS, LENGTH, KIND, FLAT, GATED,
    )  # fmt: skip
    at = places(first, tokens, inner, do, di, LENGTH, FLAT)
    m, one, two, f, h = _run_sums(logs, ones, twos, decay, LENGTH, False)
    cm, ca, cb, cf, ch = _carried_gradients(
        grad_met_marks, grad_met_sums, b, n, c, 0, top, fits, channels, chunks, KIND
    )
    m, one, two, f, h = _runs_before(m, one, two, f, h, decay, cm, ca, cb, cf, ch, RUNS, LENGTH, False)
    fall, rise = tl.zeros_like(m), tl.zeros_like(m)
    firsts, seconds = (), ()
    for j in tl.static_range(LENGTH):
        # every exponent is at most 0, since each denominator includes the term of this key
        e, own = tl.exp2(keys[j] + m), tl.exp2(keys[j] + bonus + logs[j])
        fall -= e * (values[j] * f - h)
        rise += own * (values[j] * ones[j] - twos[j])
        firsts = firsts + (e * one + own * ones[j],)
        seconds = seconds + (e * two + own * twos[j],)
        m, one, two, f, h = _step(m, one, two, f, h, decay, logs[j], ones[j], twos[j])
    m, one, two, f, h = _run_sums(logs, ones, twos, decay, LENGTH, True)
    cm, ca, cb, cf, ch = _carried_gradients(
        grad_met_marks, grad_met_sums, b, n, c, 1, top, fits, channels, chunks, KIND
    )
    m, one, two, f, h = _runs_before(m, one, two, f, h, decay, cm, ca, cb, cf, ch, RUNS, LENGTH, True)
    base = b * db + c * dc
    for j in tl.static_range(LENGTH - 1, -1, -1):
        e = tl.exp2(keys[j] + m)
        fall -= e * (values[j] * f - h)
        by_value = firsts[j] + e * one
        by_key = values[j] * by_value - (seconds[j] + e * two)
        here = fits & (first + j < tokens)
        if ADD:
            by_key += tl.load(dk + base + at[j], mask=here, other=0.0).to(KIND)
        tl.store(dk + base + at[j], by_key.to(dk.dtype.element_ty), mask=here)
        tl.store(dv + base + at[j], by_value.to(dv.dtype.element_ty), mask=here)
        if GATED:
            tl.store(dr + base + at[j], gate_grads[j].to(dr.dtype.element_ty), mask=here)
        m, one, two, f, h = _step(m, one, two, f, h, decay, logs[j], ones[j], twos[j])
    row = (b * chunks + n) * channels + c
    tl.store(dw + row, tl.sum(fall, 0)[None, :], mask=fits)
    tl.store(du + row, tl.sum(rise, 0)[None, :], mask=fits)
