"""Numba path: interpolation and argmax in one sweep, an output row at a time; memory is one row of one class at a
time."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from medvit.kernels.numba_support import job_kernel
from medvit.kernels.resample_argmax.axes import Axis

__all__ = ["choose"]


@job_kernel({"contract", "nsz"})
def _choose(first, stop, logits, xl, xh, xw, yl, yh, yw, zl, zh, zw, out):  # type: ignore[no-untyped-def]
    classes, width = logits.shape[0], logits.shape[3]
    for job in range(first, stop):
        i, j = job // yl.size, job % yl.size
        row = np.empty(width, np.float32)
        best, which = np.empty(zl.size, np.float32), np.empty(zl.size, np.int32)
        for c in range(classes):
            a, b = logits[c, xl[i], yl[j]], logits[c, xl[i], yh[j]]
            d, e = logits[c, xh[i], yl[j]], logits[c, xh[i], yh[j]]
            for n in range(width):
                near = a[n] + (d[n] - a[n]) * xw[i]
                far = b[n] + (e[n] - b[n]) * xw[i]
                row[n] = near + (far - near) * yw[j]
            if c == 0:
                for n in range(zl.size):
                    best[n], which[n] = row[zl[n]] + (row[zh[n]] - row[zl[n]]) * zw[n], 0
            else:
                for n in range(zl.size):
                    value = row[zl[n]] + (row[zh[n]] - row[zl[n]]) * zw[n]
                    which[n] = c if value > best[n] else which[n]
                    best[n] = value if value > best[n] else best[n]
        for n in range(zl.size):
            out[i, j, n] = which[n]


def choose(logits: Tensor, x: Axis, y: Axis, z: Axis, out: Tensor) -> None:
    """Write the class with the largest interpolated logit, (class, *box), into the part of ``out`` that the box
    covers."""
    tables = [
        t.int().numpy() if t.dtype.is_floating_point is False else t.numpy()
        for a in (x, y, z)
        for t in (a.low, a.high, a.weight)
    ]
    box = out[x.inside, y.inside, z.inside]
    _choose(box.shape[0] * box.shape[1], logits.float().contiguous().numpy(), *tables, box.numpy())
