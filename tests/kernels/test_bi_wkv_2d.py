"""Both scans and the gate in one: each path against the formula in fp64, forwards and every gradient."""

from __future__ import annotations

import re

import pytest
import torch

from medvit.errors import ImageError, ShapeError
from medvit.kernels.bi_wkv import bi_wkv
from medvit.kernels.bi_wkv.image_2d import bi_wkv_2d
from tests.kernels.test_bi_wkv import _relative, poisoned

__all__ = ["poisoned"]

NAMES = ("w", "u", "k", "v", "r")
FAST = ("cpu", "torch")
# batch, height, width, channels, decay's middle, key's spread
CASES = {
    "one pixel": (2, 1, 1, 3, 0.5, 1.0),
    "one row": (1, 1, 9, 3, 0.5, 1.0),
    "odd": (2, 7, 5, 11, 0.1, 2.0),
    "over chunks": (1, 13, 11, 9, 0.01, 2.0),
    "growing, far keys": (1, 9, 10, 8, -1.0, 30.0),
    "no common scale": (2, 9, 8, 9, -8.0, 20.0),
}


def _inputs(case: str, dtype: torch.dtype = torch.float64) -> tuple[list[torch.Tensor], torch.Tensor]:
    b, height, width, c, middle, spread = CASES[case]
    g = torch.Generator().manual_seed(7)
    w = middle + 0.1 * torch.randn(2, c, generator=g, dtype=torch.float64)
    u = torch.randn(2, c, generator=g, dtype=torch.float64)
    k, v, r, weight = torch.randn(4, b, height, width, c, generator=g, dtype=torch.float64)
    k = (spread * k).clamp(-60, 60)
    return [x.float().to(dtype).requires_grad_() for x in (w, u, k, v, r)], weight.float().to(dtype)


def _run(inputs, weight, backend):
    y = bi_wkv_2d(*inputs, backend=backend)
    return y, torch.autograd.grad((y * weight).sum(), inputs)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("case", CASES)
def test_equals_the_formula_forward_and_every_gradient(case, backend, poisoned):
    exact, wanted = _run(*_inputs(case), "reference")
    for dtype, limit in ((torch.float64, 1e-9), (torch.float32, 2e-6)):
        found, got = _run(*_inputs(case, dtype), backend)
        assert found.dtype == dtype
        assert _relative(found, exact) < limit
        for name, g, w in zip(NAMES, got, wanted, strict=True):
            # between the scans a float32 image is rounded, which what cancels in w's gradient feels
            assert torch.isfinite(g).all(), name
            loose = name in "wu" and dtype == torch.float32
            # a gradient that is zero, as every one of a single pixel but v's and r's, is zero up to rounding
            assert _relative(g, w) < (1e-3 if loose else limit) or g.abs().max() < 1e-6 * limit, (name, dtype)


def test_is_two_scans_and_a_gate():
    (w, u, k, v, r), _ = _inputs("odd")
    rows = bi_wkv(w[0], u[0], k.flatten(1, 2), v.flatten(1, 2)).view_as(k)
    columns = [x.transpose(1, 2) for x in (k, rows)]
    mixed = bi_wkv(w[1], u[1], *(x.flatten(1, 2) for x in columns)).view(columns[0].shape).transpose(1, 2)
    assert _relative(bi_wkv_2d(w, u, k, v, r), r.sigmoid() * mixed) < 1e-13


@pytest.mark.parametrize("backend", FAST)
def test_strides_do_not_matter(backend):
    inputs, weight = _inputs("odd")
    wanted = _run(inputs, weight, backend)
    views = [x.detach() for x in inputs]
    views[2] = views[2].movedim(-1, 1).contiguous().movedim(1, -1)  # as a convolution hands it on
    views[3] = torch.cat([views[3]] * 2, -1)[..., 11:]
    views[4] = views[4].transpose(1, 2).contiguous().transpose(1, 2)
    assert not any(x.is_contiguous() for x in views[2:])
    found = _run([x.requires_grad_() for x in views], weight.transpose(1, 2).contiguous().transpose(1, 2), backend)
    assert _relative(found[0], wanted[0]) < 1e-14
    for name, g, w in zip(NAMES, found[1], wanted[1], strict=True):
        assert _relative(g, w) < 1e-13, name


@pytest.mark.parametrize("backend", FAST)
def test_the_operator_is_registered_as_pytorch_wants_it(backend):
    inputs, weight = _inputs("one row")
    torch.library.opcheck(torch.ops.medvit.bi_wkv_2d.default, (*inputs, backend))
    detached = [x.detach() for x in inputs]
    torch.library.opcheck(
        torch.ops.medvit.bi_wkv_2d_backward.default,
        (*detached, detached[3], weight, backend),
        test_utils=("test_schema", "test_faketensor"),
    )


def test_compile_sees_one_graph_and_export_plain_operators():
    inputs, _ = _inputs("odd", torch.float32)
    tensors = [x.detach() for x in inputs]
    wanted = bi_wkv_2d(*tensors)
    compiled = torch.compile(bi_wkv_2d, fullgraph=True, backend="eager")
    assert torch.equal(compiled(*tensors), wanted)

    class Mix(torch.nn.Module):
        def forward(self, *given):
            return bi_wkv_2d(*given)

    exported = torch.export.export(Mix(), tuple(tensors))
    assert not any("medvit" in str(node.target) for node in exported.graph.nodes)
    assert _relative(exported.module()(*tensors), wanted) < 1e-5


def test_halves_keep_float32_decays_and_their_type():
    w, u, *rest = (x.detach() for x in _inputs("odd", torch.float32)[0])
    halves = [x.bfloat16() for x in rest]
    y = bi_wkv_2d(w, u, *halves)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, bi_wkv_2d(w, u, *(x.float() for x in halves)).bfloat16())


def test_what_does_not_fit_is_named():
    (w, u, k, v, r), _ = _inputs("odd", torch.float32)
    with pytest.raises(ShapeError, match=re.escape("r (2, 7, 5, 10); (2, C), (2, C) and three times (B, height, width, C)")):  # fmt: skip
        bi_wkv_2d(w, u, k, v, r[..., :-1])
    with pytest.raises(ShapeError, match="at least one sample, token and channel"):
        bi_wkv_2d(w, u, k[:0], v[:0], r[:0])
    with pytest.raises(ShapeError, match="of types float32, float32, float32, float32, float64"):
        bi_wkv_2d(w, u, k, v, r.double())
    with pytest.raises(ShapeError, match="on cpu, cpu, cpu, cpu, meta; all must be on one device"):
        bi_wkv_2d(w, u, k, v, r.to("meta"))
    with pytest.raises(ImageError, match="NaN or infinite values in r of bi_wkv"):
        bi_wkv_2d(w, u, k, v, r * float("nan"))
