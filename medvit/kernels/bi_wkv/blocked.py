"""Steps of the passes in ``cpu.py`` on one chunk of tokens and eight channels, with one exponential per key.

Within a chunk all sums are divided by exp(M), with one number M per channel, so a step of the recurrence is a
multiplication and an addition. ``connect`` finds M and the largest distance of a key below M; where the distance is too
large for float64, ``stable.py`` is used.

Numba caches machine code by the date of the file with the compiled caller: after a change here or in ``simd.py``, touch
``cpu.py``.
"""

from __future__ import annotations

from numba import njit

from medvit.kernels.bi_wkv.simd import LANES, exp, get, greatest, largest, put, smallest, splat

__all__ = [
    "CHUNK", "connect", "connect_gradients", "emit", "emit_gradients",
    "load", "open_gate", "quotients", "store", "summarise", "summarise_gradients",
]  # fmt: skip

CHUNK = 64
_NOTHING = -1e300
"""Maximum of an empty set of keys. It is finite, since infinity minus infinity is NaN."""


@njit
def load(source, b, start, count, first, block):  # type: ignore[no-untyped-def]
    """Copy eight channels of ``source`` (B, outer, inner, C) as float64 to ``block`` (token, lane), zeros past the last
    channel.

    Token t is element t % inner of row t // inner; the columns of an image are the rows of its transposed view.
    """
    inner = source.shape[2]
    row, i = start // inner, start % inner
    lanes = min(LANES, source.shape[3] - first)
    whole = source.strides[3] == source.itemsize and lanes == LANES
    for t in range(count):
        if whole:
            put(block, (t, 0), get(source, (b, row, i, first)))
        else:
            for c in range(LANES):
                block[t, c] = source[b, row, i, first + c] if c < lanes else 0.0
        i += 1
        if i == inner:
            row, i = row + 1, 0


@njit
def store(block, count, target, b, start, first):  # type: ignore[no-untyped-def]
    """Copy ``block`` (token, lane) to eight channels of ``target``, the inverse of ``load``; the channel stride of
    ``target`` is 1."""
    inner = target.shape[2]
    row, i = start // inner, start % inner
    lanes = min(LANES, target.shape[3] - first)
    for t in range(count):
        if lanes == LANES:
            put(target, (b, row, i, first), get(block, (t, 0)))
        else:
            for c in range(lanes):
                target[b, row, i, first + c] = block[t, c]
        i += 1
        if i == inner:
            row, i = row + 1, 0


@njit
def open_gate(block, gate, count):  # type: ignore[no-untyped-def]
    """Multiply ``block`` by the sigmoid of ``gate`` in place; both (token, lane)."""
    for t in range(count):
        put(block, (t, 0), get(block, (t, 0)) / (exp(get(gate, (t, 0)) * -1.0) + 1.0))


@njit
def summarise(key, value, count, decay, rows):  # type: ignore[no-untyped-def]
    """Write the chunk's summary to ``rows``.

    Rows 0 and 1: the largest and smallest key. Rows 2 and 3: the sums with and without v that the chunk contributes to
    the tokens after it, divided by exp(largest key). Rows 4 and 5: the same sums for the tokens before it.
    """
    top = low = get(key, (0, 0))
    for t in range(1, count):
        top, low = largest(top, get(key, (t, 0))), smallest(low, get(key, (t, 0)))
    keep = exp(get(decay, (0,)) * -1.0)
    up, up_under, down, down_under, fade = splat(0.0), splat(0.0), splat(0.0), splat(0.0), splat(1.0)
    for t in range(count):
        e = exp(get(key, (t, 0)) - top)
        x = e * get(value, (t, 0))
        up, up_under = up * keep + x, up_under * keep + e
        down, down_under = fade * x + down, fade * e + down_under
        fade = fade * keep
    put(rows, (0, 0), top)
    put(rows, (1, 0), low)
    put(rows, (2, 0), up)
    put(rows, (3, 0), up_under)
    put(rows, (4, 0), down)
    put(rows, (5, 0), down_under)


@njit
def connect(rows, tokens, decay):  # type: ignore[no-untyped-def]
    """Replace each chunk's own sums by the sums over all other chunks, (chunk, 7, lane), in place.

    Row 0 becomes M, rows 2 and 3 the sums over the tokens before the chunk, rows 4 and 5 those after it, divided by
    exp(M). Returns the largest distance of a key below its M.
    """
    chunks = rows.shape[0]
    w = get(decay, (0,))
    m, one, two, worst = splat(_NOTHING), splat(0.0), splat(0.0), splat(0.0)
    for n in range(chunks):
        top, add, add_under = get(rows, (n, 0, 0)), get(rows, (n, 2, 0)), get(rows, (n, 3, 0))
        put(rows, (n, 2, 0), one)
        put(rows, (n, 3, 0), two)
        put(rows, (n, 6, 0), m)
        old = m - w * float(min(CHUNK, tokens - n * CHUNK))
        m = largest(old, top)
        keep, join = exp(old - m), exp(top - m)
        one, two = one * keep + add * join, two * keep + add_under * join
    m, one, two = splat(_NOTHING), splat(0.0), splat(0.0)
    for n in range(chunks - 1, -1, -1):
        top, add, add_under, below = (
            get(rows, (n, 0, 0)),
            get(rows, (n, 4, 0)),
            get(rows, (n, 5, 0)),
            get(rows, (n, 6, 0)),
        )
        highest = largest(top, largest(m, below))
        worst = largest(worst, highest - get(rows, (n, 1, 0)))
        before, after = exp(below - highest), exp(m - highest)
        put(rows, (n, 0, 0), highest)
        put(rows, (n, 2, 0), get(rows, (n, 2, 0)) * before)
        put(rows, (n, 3, 0), get(rows, (n, 3, 0)) * before)
        put(rows, (n, 4, 0), one * after)
        put(rows, (n, 5, 0), two * after)
        old = m - w * float(min(CHUNK, tokens - n * CHUNK))
        m = largest(old, top)
        keep, join = exp(old - m), exp(top - m)
        one, two = one * keep + add * join, two * keep + add_under * join
    return greatest(worst)


@njit
def _meet(key, value, count, decay, bonus, rows, part):  # type: ignore[no-untyped-def]
    """Replace ``key`` by exp(key - M); write the sums with and without v up to each token to ``part`` (2, token,
    lane)."""
    top, keep, own = get(rows, (0, 0)), exp(get(decay, (0,)) * -1.0), exp(get(bonus, (0,)))
    one, two = get(rows, (2, 0)), get(rows, (3, 0))
    for t in range(count):
        e = exp(get(key, (t, 0)) - top)
        x = e * get(value, (t, 0))
        put(key, (t, 0), e)
        put(part, (0, t, 0), own * x + one)
        put(part, (1, t, 0), own * e + two)
        one, two = one * keep + x, two * keep + e


@njit
def emit(key, value, count, decay, bonus, rows, part):  # type: ignore[no-untyped-def]
    """Write y to ``part[0]``; ``key`` is overwritten."""
    _meet(key, value, count, decay, bonus, rows, part)
    keep, one, two = exp(get(decay, (0,)) * -1.0), get(rows, (4, 0)), get(rows, (5, 0))
    for t in range(count - 1, -1, -1):
        e = get(key, (t, 0))
        put(part, (0, t, 0), (get(part, (0, t, 0)) + one) / (get(part, (1, t, 0)) + two))
        one, two = one * keep + e * get(value, (t, 0)), two * keep + e


@njit
def quotients(key, value, grad, gate, gated, count, decay, bonus, rows, part):  # type: ignore[no-untyped-def]
    """Write a = g / D and b = g y / D, divided by exp(-M), to ``part[0]`` and ``part[1]``; replace ``key`` by exp(key -
    M).

    If ``gated``, g is the gradient of y times the sigmoid of ``gate``, and ``gate`` is replaced by its gradient.
    """
    _meet(key, value, count, decay, bonus, rows, part)
    keep, one, two = exp(get(decay, (0,)) * -1.0), get(rows, (4, 0)), get(rows, (5, 0))
    for t in range(count - 1, -1, -1):
        e, turned = get(key, (t, 0)), splat(1.0) / (get(part, (1, t, 0)) + two)
        y, g = (get(part, (0, t, 0)) + one) * turned, get(grad, (t, 0))
        if gated:
            share = splat(1.0) / (exp(get(gate, (t, 0)) * -1.0) + 1.0)
            put(gate, (t, 0), g * y * share * (splat(1.0) - share))
            g = g * share
        a = g * turned
        put(part, (1, t, 0), a * y)
        put(part, (0, t, 0), a)
        one, two = one * keep + e * get(value, (t, 0)), two * keep + e


@njit
def summarise_gradients(part, count, decay, rows):  # type: ignore[no-untyped-def]
    """Write the chunk's contributions to A, B, A' and B' after it (rows 0 to 3) and before it (4 to 7), divided by
    exp(-M)."""
    keep, fade = exp(get(decay, (0,)) * -1.0), splat(1.0)
    up, up_two, up_fall, up_fall_two = splat(0.0), splat(0.0), splat(0.0), splat(0.0)
    down, down_two, down_fall, down_fall_two = splat(0.0), splat(0.0), splat(0.0), splat(0.0)
    for t in range(count):
        a, b = get(part, (0, t, 0)), get(part, (1, t, 0))
        up_fall, up_fall_two = keep * (up_fall + up), keep * (up_fall_two + up_two)
        up, up_two = up * keep + a, up_two * keep + b
        a, b = a * fade, b * fade
        down, down_two = down + a, down_two + b
        down_fall, down_fall_two = a * float(t) + down_fall, b * float(t) + down_fall_two
        fade = fade * keep
    put(rows, (0, 0), up)
    put(rows, (1, 0), up_two)
    put(rows, (2, 0), up_fall)
    put(rows, (3, 0), up_fall_two)
    put(rows, (4, 0), down)
    put(rows, (5, 0), down_two)
    put(rows, (6, 0), down_fall)
    put(rows, (7, 0), down_fall_two)


@njit
def connect_gradients(rows, sums, tokens, decay):  # type: ignore[no-untyped-def]
    """Replace each chunk's own gradient sums by those over all other chunks, (chunk, 8, lane); ``sums`` (chunk, 7,
    lane) has M."""
    chunks = rows.shape[0]
    w = get(decay, (0,))
    for first in (0, 4):
        m, one, two, fall, fall_two = splat(_NOTHING), splat(0.0), splat(0.0), splat(0.0), splat(0.0)
        for i in range(chunks):
            n = i if first == 0 else chunks - 1 - i
            steps = float(min(CHUNK, tokens - n * CHUNK))
            own = splat(0.0) - get(sums, (n, 0, 0))
            scale = exp(m - own)
            add, add_two = get(rows, (n, first, 0)), get(rows, (n, first + 1, 0))
            add_fall, add_fall_two = get(rows, (n, first + 2, 0)), get(rows, (n, first + 3, 0))
            put(rows, (n, first, 0), one * scale)
            put(rows, (n, first + 1, 0), two * scale)
            put(rows, (n, first + 2, 0), fall * scale)
            put(rows, (n, first + 3, 0), fall_two * scale)
            old = m - w * steps
            m = largest(old, own)
            keep, join = exp(old - m), exp(own - m)
            fall = (one * steps + fall) * keep + add_fall * join
            fall_two = (two * steps + fall_two) * keep + add_fall_two * join
            one, two = one * keep + add * join, two * keep + add_two * join


@njit
def emit_gradients(key, value, count, decay, bonus, rows, part, shared):  # type: ignore[no-untyped-def]
    """Write dk to ``part[2]``, dv to ``part[3]`` and the chunk's dw and du to ``shared`` (2, lane); call after
    ``quotients``."""
    keep, own = exp(get(decay, (0,)) * -1.0), exp(get(bonus, (0,)))
    one, two, fall, fall_two = get(rows, (0, 0)), get(rows, (1, 0)), get(rows, (2, 0)), get(rows, (3, 0))
    dw, du = splat(0.0), splat(0.0)
    for t in range(count):
        x, a, b = get(value, (t, 0)), get(part, (0, t, 0)), get(part, (1, t, 0))
        put(part, (2, t, 0), own * a + one)
        put(part, (3, t, 0), own * b + two)
        e = get(key, (t, 0))
        dw, du = dw - e * (x * fall - fall_two), du + own * e * (x * a - b)
        fall, fall_two = keep * (fall + one), keep * (fall_two + two)
        one, two = one * keep + a, two * keep + b
    one, two, fall, fall_two = get(rows, (4, 0)), get(rows, (5, 0)), get(rows, (6, 0)), get(rows, (7, 0))
    for t in range(count - 1, -1, -1):
        e, x, a, b = get(key, (t, 0)), get(value, (t, 0)), get(part, (0, t, 0)), get(part, (1, t, 0))
        dv, db = e * (get(part, (2, t, 0)) + one), e * (get(part, (3, t, 0)) + two)
        put(part, (2, t, 0), x * dv - db)
        put(part, (3, t, 0), dv)
        dw = dw - e * (x * fall - fall_two)
        fall, fall_two = keep * (fall + one), keep * (fall_two + two)
        one, two = one * keep + a, two * keep + b
    put(shared, (0, 0), dw)
    put(shared, (1, 0), du)
