"""Resampling and argmax on a GPU: the launch of the kernel in ``triton_kernels.py``."""

from __future__ import annotations

from torch import Tensor

from medvit.kernels.resample_argmax.axes import Axis
from medvit.kernels.resample_argmax.triton_kernels import choose as kernel
from medvit.kernels.triton_support import launching

__all__ = ["choose"]

_BLOCK = 128


def choose(logits: Tensor, x: Axis, y: Axis, z: Axis, out: Tensor) -> None:
    """Write the class with the largest interpolated logit, (class, *box), into the part of ``out`` that the box
    covers."""
    tables = [
        (t if t.is_floating_point() else t.int()).to(logits.device)
        for a in (x, y, z)
        for t in (a.low, a.high, a.weight)
    ]
    place = out[x.inside, y.inside, z.inside]
    rows, width = len(y.low), len(z.low)
    # class stride times class number may need 64 bits; Triton then computes in 64 bits, since the stride has that type
    with launching(logits):
        kernel[(len(x.low) * rows, -(-width // _BLOCK))](
            logits, *tables, place, logits.shape[0], rows, width, *logits.stride(), *place.stride(), BLOCK=_BLOCK
        )
