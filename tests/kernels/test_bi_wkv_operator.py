"""Bi-WKV as an operator of PyTorch: registered, differentiated, and refusing what it cannot take."""

from __future__ import annotations

import re

import pytest
import torch

from medvit.errors import BackendError, ImageError, ShapeError
from medvit.kernels.bi_wkv import bi_wkv
from medvit.kernels.bi_wkv import export as plain
from medvit.kernels.bi_wkv.reference import bi_wkv_reference
from tests.kernels.test_bi_wkv import FAST, NAMES, _inputs


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_operator_is_registered_as_pytorch_wants_it(backend, dtype):
    inputs, weight = _inputs("two tokens", dtype)
    torch.library.opcheck(torch.ops.medvit.bi_wkv.default, (*inputs, backend))
    detached = [x.detach() for x in inputs]
    # it has no gradient of its own, so the check that one is registered does not apply
    torch.library.opcheck(
        torch.ops.medvit.bi_wkv_backward.default,
        (*detached, weight, backend),
        test_utils=("test_schema", "test_faketensor"),
    )


def test_gradcheck_by_finite_differences():
    g = torch.Generator().manual_seed(1)
    tensors = [torch.randn(*s, generator=g, dtype=torch.float64).requires_grad_() for s in ((3,), (3,), (2, 9, 3), (2, 9, 3))]  # fmt: skip
    assert torch.autograd.gradcheck(bi_wkv, tensors)


def test_halves_are_computed_in_float32():
    inputs = [x.detach().bfloat16() for x in _inputs("odd")[0]]
    y = bi_wkv(*inputs)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, bi_wkv(*(x.float() for x in inputs)).bfloat16())


def _ones(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    return [torch.ones(s) for s in shapes]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (_ones((3,), (3,), (2, 4, 3), (2, 5, 3)), r"Found w (3,), u (3,), k (2, 4, 3), v (2, 5, 3); (C,), (C,), (B, T, C)"),
        (_ones((3,), (3,), (4, 3), (4, 3)), "Flatten an image to tokens"),
        (_ones((1,), (3,), (2, 4, 3), (2, 4, 3)), "w (1,)"),
        (_ones((3,), (3,), (0, 4, 3), (0, 4, 3)), "at least one sample, token and channel is needed"),
        (_ones((3,), (3,), (2, 0, 3), (2, 0, 3)), "at least one sample, token and channel is needed"),
        ([torch.ones(3, dtype=torch.float64), *_ones((3,), (1, 2, 3), (1, 2, 3))], "of types float64, float32, float32, float32"),
        ([torch.ones(s, dtype=torch.int64) for s in ((3,), (3,), (1, 2, 3), (1, 2, 3))], "all must be one floating type"),
        ([torch.ones(3, device="meta"), *_ones((3,), (1, 2, 3), (1, 2, 3))], "on meta, cpu, cpu, cpu; all must be on one device"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(inputs, message):
    with pytest.raises(ShapeError, match=re.escape(message)):
        bi_wkv(*inputs)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("which", range(4))
def test_what_is_not_finite_is_refused_by_name(which, bad):
    inputs = [x.detach().clone() for x in _inputs("odd")[0]]
    inputs[which].view(-1)[-1] = bad
    with pytest.raises(ImageError, match=f"NaN or infinite values in {NAMES[which]} of bi_wkv; all must be finite"):
        bi_wkv(*inputs)


def test_a_sum_that_overflows_is_not_taken_for_infinity():
    w, u, v = torch.zeros(1), torch.zeros(1), torch.full((1, 4, 1), 3e38)
    assert torch.allclose(bi_wkv(w, u, torch.zeros(1, 4, 1), v), v)


def test_backends_say_why_they_decline():
    inputs, _ = _inputs("odd", torch.float32)
    with pytest.raises(BackendError, match="backend 'fast'; it must be one of triton, cpu, torch, reference"):
        bi_wkv(*inputs, backend="fast")
    with pytest.raises(
        BackendError, match="Found that the 'triton' backend of bi_wkv cannot run: .*[Tt]riton.* Use backend=.cpu."
    ):
        bi_wkv(*inputs, backend="triton")
    meta = [x.to("meta") for x in inputs]
    with pytest.raises(BackendError, match="cannot run: the tensor is on meta. Use backend=.torch."):
        bi_wkv(*meta, backend="cpu")
    long = torch.zeros(1, 20_000, 1)
    with pytest.raises(
        BackendError, match="all pairs of 20000 tokens at once, which is for short sequences. Use backend=.cpu."
    ):
        bi_wkv(torch.zeros(1), torch.zeros(1), long, long, backend="reference")


@pytest.mark.parametrize("tokens", [1, 2, 7, 129])
def test_the_path_of_exported_graphs_is_the_formula_in_float32(tokens):
    generator = torch.Generator().manual_seed(tokens)
    w, u = torch.randn(5, generator=generator) / tokens, torch.randn(5, generator=generator)
    k, v = 120 * torch.rand(2, tokens, 5, generator=generator) - 60, torch.randn(2, tokens, 5, generator=generator)
    wanted = bi_wkv_reference(*(x.double() for x in (w, u, k, v)))
    found = plain.forward(w, u, k, v)
    assert found.dtype == torch.float32
    assert float((found - wanted).norm() / wanted.norm()) < 1e-5
    assert torch.allclose(plain.forward(*(x.double() for x in (w, u, k, v))), wanted, rtol=1e-9, atol=1e-12)
