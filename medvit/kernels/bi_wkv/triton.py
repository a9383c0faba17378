"""Bi-WKV on a GPU: launches of the kernels in ``triton_forward.py`` and ``triton_backward.py``.

A scan runs over the tokens of a (B, rows, columns, C) image, row by row or column by column; a flat sequence is an
image of one row. Strides are arguments, so neither direction copies the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from medvit.kernels.bi_wkv import triton_backward, triton_forward
from medvit.kernels.triton_support import launching

__all__ = ["Plan", "ScanBuffers", "backward", "forward", "gradients", "run"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Block sizes of a launch. A run is the tokens of one channel that a thread keeps in registers.

    Attributes:
        length: number of tokens in a run.
        runs: number of consecutive runs in a program.
        width: number of channels in a program.
        rows: number of chunks that ``connect`` takes at a time.
        warps: number of warps of a program.
    """

    length: int
    runs: int
    width: int = 16
    rows: int = 64
    warps: int = 8

    @property
    def tokens(self) -> int:
        """Number of tokens in a program."""
        return self.length * self.runs


FORWARD = Plan(length=16, runs=16, rows=128)
BACKWARD = Plan(length=8, runs=32, width=8)

_EXACT_GRADIENTS = (torch.float64, torch.float32)
"""Input types whose gradients are summed in float64, as on the CPU. Where sums grow (w below 0), the gradient of w is a
small difference of large numbers: float32 sums leave a relative error of 3e-3."""


@dataclass(frozen=True, kw_only=True)
class ScanBuffers:
    """Input of one scan, all (B, rows, columns, C), and its direction.

    Attributes:
        w: (C,) decay.
        u: (C,) bonus.
        k: keys.
        v: values.
        r: receptance whose sigmoid multiplies y, or None.
        down: scan column by column instead of row by row.
    """

    w: Tensor
    u: Tensor
    k: Tensor
    v: Tensor
    r: Tensor | None = None
    down: bool = False

    def strides(self, tensor: Tensor) -> tuple[int, ...]:
        """Return the strides of samples, lines of tokens, tokens and channels."""
        b, rows, columns, c = tensor.stride()
        return (b, columns, rows, c) if self.down else (b, rows, columns, c)

    def flat(self, *tensors: Tensor) -> bool:
        """Return True if one stride leads from each token to the next, in all tensors."""
        outer, inner = (2, 1) if self.down else (1, 2)
        return all(t.shape[outer] == 1 or t.stride(outer) == t.shape[inner] * t.stride(inner) for t in tensors)


@dataclass(frozen=True, kw_only=True)
class _Met:
    """Maxima and sums of the chunks and of the tokens around them, and the sizes that every launch needs."""

    scan: ScanBuffers
    plan: Plan
    marks: Tensor
    met_marks: Tensor
    met_sums: Tensor

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        _, rows, columns, c = self.scan.k.shape
        return rows * columns, c, self.marks.shape[2], rows if self.scan.down else columns

    @property
    def grid(self) -> tuple[int, int, int]:
        return self.marks.shape[2], -(-self.scan.k.shape[3] // self.plan.width), self.scan.k.shape[0]

    def options(self, **more: Any) -> dict[str, Any]:
        plan = self.plan
        return {
            "RUNS": plan.runs, "LENGTH": plan.length, "WIDTH": plan.width, "num_warps": plan.warps,
            "KIND": tl.float64 if self.met_sums.dtype == torch.float64 else tl.float32, **more,
        }  # fmt: skip


_PAIR = 2
"""Number of channels in a program of ``connect``."""


def _narrow(plan: Plan) -> dict[str, int]:
    return {"ROWS": plan.rows, "WIDTH": _PAIR, "num_warps": 4}


def _surroundings(scan: ScanBuffers, plan: Plan, wide: tuple[torch.dtype, ...] = (torch.float64,)) -> _Met:
    batch, rows, columns, channels = scan.k.shape
    tokens, chunks = rows * columns, -(-rows * columns // plan.tokens)
    exact: dict[str, Any] = {"dtype": torch.float64, "device": scan.k.device}
    kind: dict[str, Any] = {
        "dtype": torch.float64 if scan.k.dtype in wide else torch.float32,
        "device": scan.k.device,
    }
    marks, sums = torch.empty(batch, 3, chunks, channels, **exact), torch.empty(batch, 4, chunks, channels, **kind)
    met = _Met(
        scan=scan,
        plan=plan,
        marks=marks,
        met_marks=torch.empty_like(marks[:, :2].contiguous()),
        met_sums=torch.empty_like(sums),
    )
    k, v = scan.strides(scan.k), scan.strides(scan.v)
    triton_forward.summarise[met.grid](
        scan.w, scan.k, scan.v, marks, sums, tokens, channels, chunks, met.sizes[3], *k, *v,
        **met.options(FLAT=scan.flat(scan.k, scan.v)),
    )  # fmt: skip
    triton_forward.connect[(-(-channels // _PAIR), 2, batch)](
        scan.w, marks, sums, met.met_marks, met.met_sums, channels, chunks, plan.tokens, **_narrow(plan)
    )
    return met


def run(scan: ScanBuffers, plan: Plan | None = None) -> Tensor:
    """Compute y, (B, rows, columns, C) contiguous, gated if ``scan`` has a receptance."""
    with launching(scan.k):
        met = _surroundings(scan, plan or FORWARD)
        y = torch.empty(scan.k.shape, dtype=scan.k.dtype, device=scan.k.device)
        gate = scan.r if scan.r is not None else scan.k
        triton_forward.emit[met.grid](
            scan.w, scan.u, scan.k, scan.v, gate, y, met.marks, met.met_marks, met.met_sums, *met.sizes,
            *scan.strides(scan.k), *scan.strides(scan.v), *scan.strides(gate), *scan.strides(y),
            **met.options(FLAT=scan.flat(scan.k, scan.v, gate, y), GATED=scan.r is not None),
        )  # fmt: skip
    return y


def gradients(
    scan: ScanBuffers, grad: Tensor, *, onto: Tensor | None = None, plan: Plan | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """Return the gradients of w, u, k, v and r; if ``onto`` is given, the gradient of k is added to it in place."""
    plan = plan or BACKWARD
    with launching(scan.k):
        met = _surroundings(scan, plan, _EXACT_GRADIENTS)
        batch, _, _, channels = scan.k.shape
        _, _, chunks, _ = met.sizes
        gate = scan.r if scan.r is not None else scan.k
        shape, dtype, device = scan.k.shape, scan.k.dtype, scan.k.device
        dk = onto if onto is not None else torch.empty(shape, dtype=dtype, device=device)
        dv = torch.empty(shape, dtype=dtype, device=device)
        dr = torch.empty(shape, dtype=dtype, device=device) if scan.r is not None else None
        kind = met.met_sums.dtype
        marks = torch.empty(2, batch, 2, chunks, channels, dtype=torch.float64, device=device)
        sums = torch.empty(2, batch, 8, chunks, channels, dtype=kind, device=device)
        shared = torch.empty(2, batch, chunks, channels, dtype=kind, device=device)
        inputs = (scan.w, scan.u, scan.k, scan.v, grad, gate, met.marks, met.met_marks, met.met_sums)
        strides = tuple(s for t in (scan.k, scan.v, gate, grad) for s in scan.strides(t))
        options = met.options(FLAT=scan.flat(scan.k, scan.v, gate, grad, dk), GATED=scan.r is not None)
        triton_backward.summarise_gradients[met.grid](*inputs, marks[0], sums[0], *met.sizes, *strides, **options)
        triton_backward.connect_gradients[(-(-channels // _PAIR), 2, batch)](
            scan.w, marks[0], sums[0], marks[1], sums[1], channels, chunks, plan.tokens, **_narrow(plan)
        )
        triton_backward.emit_gradients[met.grid](
            *inputs, marks[1], sums[1], shared[0], shared[1], dk, dv, dr if dr is not None else dv, *met.sizes,
            *strides, *scan.strides(dk), **options, ADD=onto is not None,
        )  # fmt: skip
        dw, du = (
            part.sum((0, 1), dtype=torch.float64) for part in shared
        )  # no views: the results of an operator must not alias each other
    return dw.to(scan.w.dtype), du.to(scan.u.dtype), dk, dv, dr


def forward(w: Tensor, u: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Compute y on a GPU; arguments and result as ``bi_wkv_reference``; half precision is computed in float32."""
    return run(ScanBuffers(w=w, u=u, k=k[:, None], v=v[:, None]))[:, 0]


def backward(w: Tensor, u: Tensor, k: Tensor, v: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of w, u, k and v for the gradient of y."""
    dw, du, dk, dv, _ = gradients(ScanBuffers(w=w, u=u, k=k[:, None], v=v[:, None]), grad[:, None])
    return dw, du, dk[:, 0], dv[:, 0]
