"""The CPU path against the formula in fp64, and the formula against MONAI, forwards and backwards."""

from __future__ import annotations

import pytest
import torch

from medvit.errors import BackendError, ShapeError
from medvit.kernels.window_attention import window_attention

CASES = {
    "3d, whole windows": ((8, 8, 8), (4, 4, 4), (0, 0, 0), 3, 4),
    "3d, shifted, padded, odd": ((9, 7, 11), (4, 4, 4), (2, 2, 2), 3, 4),
    "3d, shrunk along one axis": ((5, 14, 3), (7, 7, 7), (3, 3, 3), 2, 8),
    "3d, one voxel": ((1, 1, 1), (7, 7, 7), (3, 3, 3), 1, 4),
    "3d, anisotropic window": ((6, 9, 5), (2, 5, 3), (1, 2, 1), 2, 5),
    "2d, shifted, padded": ((13, 10), (4, 4), (1, 1), 4, 6),
}


def _inputs(case: str, dtype: torch.dtype = torch.float64):
    spatial, window, shift, heads, dim = CASES[case]
    g = torch.Generator().manual_seed(1)
    offsets = 1
    for w in window:
        offsets *= 2 * w - 1
    qkv = torch.randn(2, *spatial, 3 * heads * dim, generator=g, dtype=torch.float64)
    table = torch.randn(offsets, heads, generator=g, dtype=torch.float64)
    bias = torch.randn(3 * heads * dim, generator=g, dtype=torch.float64)
    tensors = [t.to(dtype).requires_grad_() for t in (qkv, table, bias)]
    return tensors, {"num_heads": heads, "window_size": window, "shift": shift}


def _relative(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found.detach().double() - exact.detach()).norm() / exact.detach().norm().clamp(min=1e-12))


@pytest.mark.parametrize("case", CASES)
def test_cpu_path_equals_fp64_formula_forward_and_every_gradient(case, monkeypatch):
    (qkv, table, bias), options = _inputs(case)
    exact = window_attention(qkv, table, qkv_bias=bias, **options)
    weight = torch.randn(exact.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    wanted = torch.autograd.grad((exact * weight).sum(), (qkv, table, bias), allow_unused=True)

    # a path that forgets an element of fresh memory would show it as NaN
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, **k: empty(*a, **k).fill_(float("nan")))
    (qkv32, table32, bias32), _ = _inputs(case, torch.float32)
    found = window_attention(qkv32, table32, qkv_bias=bias32, backend="cpu", **options)
    got = torch.autograd.grad((found * weight.float()).sum(), (qkv32, table32, bias32))
    assert _relative(found, exact) < 1e-5
    for name, g, w in zip(("qkv", "bias_table", "qkv_bias"), got, wanted, strict=True):
        assert torch.isfinite(g).all(), name
        assert _relative(g, w) < 2e-5 if w is not None and w.norm() > 1e-9 else g.abs().max() < 1e-4, name


def test_non_contiguous_input_gives_the_same():
    (qkv, table, bias), options = _inputs("3d, shifted, padded, odd", torch.float32)
    wide = torch.cat([qkv, qkv], -1)[..., : qkv.shape[-1]]
    assert not wide.is_contiguous()
    assert torch.equal(
        window_attention(wide, table, qkv_bias=bias, **options), window_attention(qkv, table, qkv_bias=bias, **options)
    )


def test_float64_on_the_cpu_takes_the_reference():
    (qkv, table, bias), options = _inputs("2d, shifted, padded")
    default = window_attention(qkv, table, qkv_bias=bias, **options)
    assert default.dtype == torch.float64
    assert torch.equal(default, window_attention(qkv, table, qkv_bias=bias, backend="reference", **options))


def test_is_deterministic_backwards():
    (qkv, table, bias), options = _inputs("3d, shifted, padded, odd", torch.float32)
    grads = [
        torch.autograd.grad(window_attention(qkv, table, qkv_bias=bias, **options).square().sum(), table)[0]
        for _ in range(3)
    ]
    assert torch.equal(grads[0], grads[1])
    assert torch.equal(grads[0], grads[2])


def test_far_apart_scores_stay_finite():
    (qkv, table, bias), options = _inputs("3d, whole windows", torch.float32)
    big = (qkv * 60).detach()
    found = window_attention(big, table, qkv_bias=bias, **options)
    exact = window_attention(big.double(), table.double(), qkv_bias=bias.double(), **options)
    assert torch.isfinite(found).all()
    assert _relative(found, exact) < 1e-4


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_list_of_windows_computes_those_and_leaves_zeros(backend):
    (qkv, table, bias), options = _inputs("3d, shifted, padded, odd", torch.float32)
    whole = window_attention(qkv, table, qkv_bias=bias, backend=backend, **options)
    some = window_attention(qkv, table, qkv_bias=bias, windows=[0, 5], backend=backend, **options)
    touched = some.abs().sum(-1) > 0
    assert 0 < touched.sum() < touched.numel()
    assert torch.allclose(some[touched], whole[touched], atol=1e-6)


def test_equals_monai_block_by_block():
    from monai.networks.nets.swin_unetr import SwinTransformerBlock, compute_mask

    torch.manual_seed(0)
    block = SwinTransformerBlock(12, 3, (7, 7, 7), (3, 3, 3)).double()
    block.attn.relative_position_bias_table.data.normal_()
    x = torch.randn(1, 9, 16, 8, 12, dtype=torch.float64)
    mask = compute_mask([14, 21, 14], (7, 7, 7), (3, 3, 3), x.device).double()
    wanted = block.forward_part1(x, mask)
    mixed = window_attention(
        block.attn.qkv(block.norm1(x)),
        block.attn.relative_position_bias_table,
        num_heads=3,
        window_size=(7, 7, 7),
        shift=(3, 3, 3),
        qkv_bias=block.attn.qkv.bias,
    )
    assert torch.allclose(block.attn.proj(mixed), wanted, atol=1e-12)


def test_many_threads_at_once_get_the_same():
    """A label server calls from several threads; numba's plainest threading layer would abort the process."""
    from concurrent.futures import ThreadPoolExecutor

    (qkv, table, bias), options = _inputs("3d, shifted, padded, odd", torch.float32)
    tensors = [t.detach() for t in (qkv, table, bias)]
    alone = window_attention(tensors[0], tensors[1], qkv_bias=tensors[2], **options)

    def call(_: int) -> torch.Tensor:
        return window_attention(tensors[0], tensors[1], qkv_bias=tensors[2], **options)

    with ThreadPoolExecutor(8) as pool:
        assert all(torch.equal(result, alone) for result in pool.map(call, range(40)))


def test_messages():
    (qkv, table, _bias), options = _inputs("2d, shifted, padded")
    with pytest.raises(BackendError, match=r"torch\.float64, the loops are written for torch\.float32, torch\.float16"):
        window_attention(qkv, table, backend="cpu", **options)
    with pytest.raises(BackendError, match="must be one of triton, cpu, reference"):
        window_attention(qkv, table, backend="cuda", **options)
    with pytest.raises(ShapeError, match="give one number for each axis"):
        window_attention(qkv, table, **{**options, "shift": (1,)})
    with pytest.raises(ShapeError, match="must hold q, k and v"):
        window_attention(qkv, table, **{**options, "num_heads": 7})
    with pytest.raises(ShapeError, match=r"distinct and within 0\.\."):
        window_attention(qkv, table, windows=[0, 99], **options)


def test_gradients_of_a_list_of_windows_are_those_of_the_formula():
    (qkv, table, bias), options = _inputs("3d, shifted, padded, odd")
    (qkv32, table32, bias32), _ = _inputs("3d, shifted, padded, odd", torch.float32)
    listed = {**options, "windows": torch.tensor([11, 0, 7])}
    exact = window_attention(qkv, table, qkv_bias=bias, backend="reference", **listed)
    found = window_attention(qkv32, table32, qkv_bias=bias32, backend="cpu", **listed)
    weight = torch.randn(exact.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    wanted = torch.autograd.grad((exact * weight).sum(), (qkv, table, bias))
    got = torch.autograd.grad((found * weight.float()).sum(), (qkv32, table32, bias32))
    assert _relative(found, exact) < 1e-5
    for name, g, w in zip(("qkv", "bias_table", "qkv_bias"), got, wanted, strict=True):
        assert _relative(g, w) < 2e-5, name


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_an_empty_list_computes_nothing(backend):
    (qkv, table, bias), options = _inputs("2d, shifted, padded", torch.float32)
    found = window_attention(qkv, table, qkv_bias=bias, windows=[], backend=backend, **options)
    assert found.shape == (2, 13, 10, 24)
    assert not found.any()


def test_the_operator_is_registered_as_pytorch_wants_it():
    (qkv, table, bias), options = _inputs("2d, shifted, padded", torch.float32)
    for windows in (None, torch.tensor([3, 1])):
        arguments = (
            qkv,
            table,
            bias,
            windows,
            [*options["window_size"]],
            [*options["shift"]],
            options["num_heads"],
            "cpu",
        )
        torch.library.opcheck(torch.ops.medvit.window_attention.default, arguments)
        tensors = [t.detach() for t in (qkv, table, bias)]
        out, lse = torch.ops.medvit.window_attention(*tensors, *arguments[3:])
        # it has no gradient of its own, so the check that one is registered does not apply
        torch.library.opcheck(
            torch.ops.medvit.window_attention_backward.default,
            (torch.randn_like(out), *tensors, out, lse, *arguments[3:]),
            test_utils=("test_schema", "test_faketensor"),
        )


def test_compile_sees_one_graph_and_export_plain_operators():
    (qkv, table, bias), options = _inputs("2d, shifted, padded", torch.float32)
    tensors = [t.detach() for t in (qkv, table, bias)]

    class Attend(torch.nn.Module):
        def forward(self, qkv, table, bias):
            return window_attention(qkv, table, qkv_bias=bias, **options)

    wanted = Attend()(*tensors)
    assert torch.equal(torch.compile(Attend(), fullgraph=True, backend="eager")(*tensors), wanted)
    exported = torch.export.export(Attend(), tuple(tensors))
    assert not any("medvit" in str(node.target) for node in exported.graph.nodes)
    assert _relative(exported.module()(*tensors), wanted) < 1e-5


def test_bad_input_is_named():
    (qkv, table, bias), options = _inputs("2d, shifted, padded", torch.float32)
    with pytest.raises(ShapeError, match="at least one sample and token are needed"):
        window_attention(qkv[:0], table, **options)
    with pytest.raises(ShapeError, match="shifts within 0..window - 1"):
        window_attention(qkv, table, **{**options, "shift": (4, 0)})
    with pytest.raises(ShapeError, match=r"bias_table of shape \(48, 4\); \(49, 4\) is needed"):
        window_attention(qkv, table[:-1], **options)
    with pytest.raises(ShapeError, match="bias_table on meta and qkv on cpu; they must be on one device"):
        window_attention(qkv, table.to("meta"), **options)
    with pytest.raises(
        ShapeError, match="qkv_bias of torch.float64 and qkv of torch.float32; both must be one floating"
    ):
        window_attention(qkv, table, qkv_bias=bias.double(), **options)
    with pytest.raises(ShapeError, match="Give indices, not a mask"):
        window_attention(qkv, table, windows=torch.ones(12, dtype=torch.bool), **options)
    with pytest.raises(
        BackendError, match="Found that the 'triton' backend of window_attention cannot run: .*[Tt]riton"
    ):
        window_attention(qkv, table, backend="triton", **options)
