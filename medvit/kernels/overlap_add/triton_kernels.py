"""Triton kernels of overlap-add: ``accumulate`` adds one window to the sums, ``blend`` writes the mean of all
windows."""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["accumulate", "blend"]


@triton.jit
def accumulate(
    sums, weights, window, weight, length, rows, width, ring, turn,
    sc, sx, sy, sz, qx, qy, qz, wc, wx, wy, wz, px, py, pz,
    FIRST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Add a window (channel, length, rows, width) times its weight to ``sums``, and the weight to ``weights`` if
    ``FIRST``.

    Planes are in a ring buffer: the window's first is plane ``turn`` of ``ring``. Product and sum are rounded
    separately.
    """
    c = tl.program_id(1).to(tl.int64)
    n = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = n < length.to(tl.int64) * rows * width
    i, j, k = n // (rows * width), (n // width) % rows, n % width
    plane = (i + turn) % ring
    share = tl.load(weight + i * px + j * py + k * pz, mask=here, other=0.0)
    value = tl.load(window + c * wc + i * wx + j * wy + k * wz, mask=here, other=0.0).to(share.dtype)
    at = sums + c * sc + plane * sx + j * sy + k * sz
    tl.store(at, tl.load(at, mask=here, other=0.0) + value * share, mask=here)
    if FIRST:
        if c == 0:
            at = weights + plane * qx + j * qy + k * qz
            tl.store(at, tl.load(at, mask=here, other=0.0) + share, mask=here)


@triton.jit
def blend(
    windows, weight, origins, first, listed, out, missed, length, rows, width, roi_x, roi_y, roi_z,
    wn, wc, wx, wy, wz, px, py, pz, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the weighted mean of the windows ``listed`` from first[plane] to first[plane + 1] to ``out``.

    ``out`` is (channel, length, rows, width). ``missed`` gets, for each program of the first channel, the number of its
    voxels that no window covers.
    """
    plane, j = tl.program_id(0) // rows, tl.program_id(0) % rows
    c = tl.program_id(2).to(tl.int64)
    k = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    here = k < width
    above = tl.zeros((BLOCK,), weight.dtype.element_ty)
    below = tl.zeros((BLOCK,), weight.dtype.element_ty)
    for at in range(tl.load(first + plane), tl.load(first + plane + 1)):
        n = tl.load(listed + at).to(tl.int64)
        x, y = plane - tl.load(origins + 3 * n), j - tl.load(origins + 3 * n + 1)
        z = k - tl.load(origins + 3 * n + 2)
        if (y >= 0) & (y < roi_y):
            within = here & (z >= 0) & (z < roi_z)
            share = tl.load(weight + x * px + y * py + z * pz, mask=within, other=0.0)
            place = windows + n * wn + c * wc + x.to(tl.int64) * wx + y.to(tl.int64) * wy + z.to(tl.int64) * wz
            value = tl.load(place, mask=within, other=0.0).to(share.dtype)
            above = tl.where(within, above + value * share, above)
            below = tl.where(within, below + share, below)
    to = out + ((c * length + plane) * rows + j) * width + k
    tl.store(to, above / below, mask=here)
    if c == 0:
        lost = tl.sum((here & (below == 0)).to(tl.int32), 0)
        tl.store(missed + tl.program_id(0) * tl.num_programs(1) + tl.program_id(1), lost)
