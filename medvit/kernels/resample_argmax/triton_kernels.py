"""Triton kernel of ``resample_argmax``: a program keeps the best class so far for a part of one output row."""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["choose"]


@triton.jit
def choose(
    logits, xl, xh, xw, yl, yh, yw, zl, zh, zw, out,
    classes, rows, width, sc, sx, sy, sz, ox, oy, oz,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Write labels to ``out`` (pointer to its first voxel in the box, strides ox, oy, oz); ``logits`` has strides sc,
    sx, sy, sz."""
    i, j = tl.program_id(0) // rows, tl.program_id(0) % rows
    n = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    here = n < width
    near_x, far_x = tl.load(xl + i).to(tl.int64) * sx, tl.load(xh + i).to(tl.int64) * sx
    near_y, far_y = tl.load(yl + j).to(tl.int64) * sy, tl.load(yh + j).to(tl.int64) * sy
    near_z = tl.load(zl + n, mask=here, other=0).to(tl.int64) * sz
    far_z = tl.load(zh + n, mask=here, other=0).to(tl.int64) * sz
    wx, wy = tl.load(xw + i), tl.load(yw + j)
    wz = tl.load(zw + n, mask=here, other=0.0)
    best = tl.zeros((BLOCK,), tl.float32)
    which = tl.zeros((BLOCK,), tl.int32)
    for c in range(0, classes):
        base = logits + c * sc
        a0 = tl.load(base + near_x + near_y + near_z, mask=here, other=0.0).to(tl.float32)
        a1 = tl.load(base + near_x + near_y + far_z, mask=here, other=0.0).to(tl.float32)
        b0 = tl.load(base + near_x + far_y + near_z, mask=here, other=0.0).to(tl.float32)
        b1 = tl.load(base + near_x + far_y + far_z, mask=here, other=0.0).to(tl.float32)
        d0 = tl.load(base + far_x + near_y + near_z, mask=here, other=0.0).to(tl.float32)
        d1 = tl.load(base + far_x + near_y + far_z, mask=here, other=0.0).to(tl.float32)
        e0 = tl.load(base + far_x + far_y + near_z, mask=here, other=0.0).to(tl.float32)
        e1 = tl.load(base + far_x + far_y + far_z, mask=here, other=0.0).to(tl.float32)
        a0, a1 = a0 + (d0 - a0) * wx, a1 + (d1 - a1) * wx
        b0, b1 = b0 + (e0 - b0) * wx, b1 + (e1 - b1) * wx
        a0, a1 = a0 + (b0 - a0) * wy, a1 + (b1 - a1) * wy
        value = a0 + (a1 - a0) * wz
        better = (value > best) | (c == 0)
        which = tl.where(better, c, which)
        best = tl.where(better, value, best)
    at = i.to(tl.int64) * ox + j.to(tl.int64) * oy + n.to(tl.int64) * oz
    tl.store(out + at, which.to(out.dtype.element_ty), mask=here)
