"""Run the Triton kernels in Triton's interpreter against the formulas in fp64; a process of its own, since it is told at import.

TRITON_INTERPRET=1 python -m tests.kernels.interpreted OPERATOR [rest]   (prints one JSON object: relative errors by case and tensor)

Without "rest" the costly operators run the cases that meet the most of their kernels' branches, and with it the others.
"""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager

import torch

from medvit.kernels.bi_wkv import bi_wkv
from medvit.kernels.bi_wkv.image_2d import bi_wkv_2d
from medvit.kernels.overlap_add import overlap_add
from medvit.kernels.resample_argmax import resample_argmax
from medvit.kernels.window_attention import window_attention
from tests.kernels import test_bi_wkv, test_bi_wkv_2d, test_overlap_add, test_window_attention
from tests.kernels.test_bi_wkv import _relative


@contextmanager
def poisoned():
    """A path that forgets an element of fresh memory shows it as NaN, or 99 in whole numbers."""
    empty = torch.empty

    def poison(*size, **options):
        made = empty(*size, **options)
        return made.fill_(float("nan") if made.is_floating_point() else 99)

    torch.empty = poison
    try:
        yield
    finally:
        torch.empty = empty


def _errors(names, found, wanted):
    return {n: _relative(f, w) if w.norm() > 1e-9 else float(f.abs().max()) for n, f, w in zip(names, found, wanted, strict=True)}  # fmt: skip


def _both(call, inputs, exact, backend="triton"):
    """Result and gradients of the kernels, and of the formula in fp64."""
    wanted = call(*exact, backend="reference")
    weight = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    slopes = torch.autograd.grad((wanted * weight).sum(), exact, allow_unused=True)
    with poisoned():
        found = call(*inputs, backend=backend)
        grads = torch.autograd.grad((found * weight.to(found.dtype)).sum(), inputs)
    again = call(*inputs, backend=backend)
    assert torch.equal(found, again), "not deterministic"
    zeros = [torch.zeros_like(e) if s is None else s for s, e in zip(slopes, exact, strict=True)]
    return [found, *grads], [wanted, *zeros]


def run_bi_wkv():
    from medvit.kernels.bi_wkv import triton

    told = {}
    plans = {"odd": (4, 4), "one token": (4, 2), "keys to 60": (16, 4), "steep": (8, 4), "growing": (16, 2), "less than a chunk": (8, 4)}  # fmt: skip
    for case, (length, runs) in plans.items():
        triton.FORWARD = triton.BACKWARD = triton.Plan(length=length, runs=runs, width=16, rows=2, warps=1)
        for dtype in (torch.float32, torch.float64) if case == "odd" else (torch.float32,):
            exact, inputs = (test_bi_wkv._inputs(case, d)[0] for d in (torch.float64, dtype))
            cut = slice(None, 150)
            exact, inputs = ([*x[:2], *(t.detach()[:, cut].requires_grad_() for t in x[2:])] for x in (exact, inputs))
            told[f"{case}, {dtype}"] = _errors(("y", "w", "u", "k", "v"), *_both(bi_wkv, inputs, exact))
    return told


def run_bi_wkv_2d(rest=False):
    from medvit.kernels.bi_wkv import triton

    triton.FORWARD = triton.BACKWARD = triton.Plan(length=8, runs=2, width=16, rows=2, warps=1)
    told = {}
    for case in ("one row",) if rest else ("odd",):
        exact, inputs = (test_bi_wkv_2d._inputs(case, d)[0] for d in (torch.float64, torch.float32))
        inputs = [x.detach() for x in inputs]
        inputs[2] = inputs[2].movedim(-1, 1).contiguous().movedim(1, -1)
        inputs[3] = torch.cat([inputs[3]] * 2, -1)[..., inputs[3].shape[-1] :]
        inputs = [x.requires_grad_() for x in inputs]
        told[case] = _errors(("y", "w", "u", "k", "v", "r"), *_both(bi_wkv_2d, inputs, exact))
    return told


def run_window_attention(rest=False):
    from medvit.kernels.window_attention import triton

    triton.BLOCKS = triton.Blocks(32, 32)
    told = {}
    names = ("y", "qkv", "bias_table", "qkv_bias")
    few = ("3d, shrunk along one axis", "listed")
    for case in ("3d, one voxel", "3d, anisotropic window", "2d, shifted, padded") if rest else few:
        source = "2d, shifted, padded" if case == "listed" else case
        exact, options = test_window_attention._inputs(source)
        inputs, _ = test_window_attention._inputs(source, torch.float32)
        if case == "listed":
            options["windows"] = [7, 0, 10]

        def call(qkv, table, bias, backend, options=options):
            return window_attention(qkv, table, qkv_bias=bias, backend=backend, **options)

        told[case] = _errors(names, *_both(call, inputs, exact))
    options["windows"] = []
    told["none listed"] = {"y": float(call(*inputs, backend="triton", options=options).detach().abs().max())}
    return told


def run_overlap_add():
    from medvit.kernels.overlap_add.blend import Blend
    from medvit.kernels.overlap_add.label_stream import LabelStream

    told = {}
    for size, roi, step in test_overlap_add.CASES:
        windows, origins, weight = test_overlap_add.make(size, roi, step, torch.float32)
        windows = windows.movedim(1, -1).contiguous().movedim(-1, 1).requires_grad_()
        plain = overlap_add(windows, origins, size, weight, backend="torch")
        with poisoned():
            found = overlap_add(windows, origins, size, weight, backend="triton")
        doubled = windows.detach().double().requires_grad_()
        exact = overlap_add(doubled, origins, size, weight.double(), backend="torch")
        slopes = [torch.autograd.grad(y.square().sum(), x)[0] for y, x in ((found, windows), (exact, doubled))]
        blend = Blend(size, windows.shape[1], weight)
        stream = LabelStream(size, windows.shape[1], weight)
        for window, origin in zip(windows.detach(), origins.tolist(), strict=True):
            blend.add(window, origin)
            stream.add(window, origin)
        labels = stream.labels()
        told[str(size)] = {
            "y": float((found - plain).abs().max().detach()), "windows": _relative(*slopes),
            "blend": float((blend.mean()[0] - plain.detach()).abs().max()),
            "labels": float((labels[0].long() != exact.argmax(0)).sum()),
        }  # fmt: skip
    return told


def run_resample_argmax():
    logits = torch.randn(6, 5, 4, 7, generator=torch.Generator().manual_seed(0)).permute(0, 2, 1, 3)
    told = {}
    for out, more in (((9, 7, 12), {}), ((5, 6, 130), {}), ((12, 12, 12), {"grid_shape": (9, 9, 9), "start": (2, 3, 1), "background": 7})):  # fmt: skip
        with poisoned():
            found = resample_argmax(logits, out_shape=out, backend="triton", **more)
        wanted = resample_argmax(logits, out_shape=out, backend="reference", **more)
        told[str(out)] = {"differing": float((found != wanted).sum())}
    return told


if __name__ == "__main__":
    print(json.dumps(globals()[f"run_{sys.argv[1]}"](*(word == "rest" for word in sys.argv[2:]))))
