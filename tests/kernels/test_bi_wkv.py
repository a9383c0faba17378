"""Each path against the formula in fp64, forwards and every gradient, and the formula against the published tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medvit.kernels.bi_wkv import bi_wkv

NAMES = ("w", "u", "k", "v")
FAST = ("cpu", "torch")
# batch, tokens, channels, decay's middle and spread, key's spread
CASES = {
    "one token": (2, 1, 5, 0.5, 1.0, 1.0),
    "two tokens": (1, 2, 3, 0.5, 1.0, 1.0),
    "odd": (2, 37, 11, 0.5, 1.0, 2.0),
    "over a chunk, one channel": (1, 259, 1, 0.1, 0.0, 2.0),
    "whole chunks and lanes": (1, 256, 16, 0.0, 0.01, 1.0),
    "growing": (1, 300, 4, -1.0, 0.2, 1.0),
    "no decay, no bonus": (1, 130, 9, 0.0, 0.0, 1.0),
    "steep": (1, 200, 8, 30.0, 1.0, 3.0),
    "keys to 60": (1, 400, 8, 0.01, 0.01, 30.0),
    "less than a chunk": (1, 63, 17, 0.02, 0.1, 2.0),
    "one token over a span": (1, 1025, 9, 0.001, 0.01, 1.0),
    "growing beyond a chunk": (1, 130, 9, -4.0, 0.5, 1.0),
}


def _inputs(case: str, dtype: torch.dtype = torch.float64) -> tuple[list[torch.Tensor], torch.Tensor]:
    b, t, c, middle, spread, wide = CASES[case]
    g = torch.Generator().manual_seed(5)
    w = middle + spread * torch.randn(c, generator=g, dtype=torch.float64)
    u = spread * torch.randn(c, generator=g, dtype=torch.float64)
    k = (wide * torch.randn(b, t, c, generator=g, dtype=torch.float64)).clamp(-60, 60)
    v, weight = (torch.randn(b, t, c, generator=g, dtype=torch.float64) for _ in range(2))
    # the same numbers in both types: what is compared is the arithmetic, not the rounding of the input
    rounded = [x.float().to(dtype).requires_grad_() for x in (w, u, k, v)]
    return rounded, weight.float().to(dtype)


def _relative(found: torch.Tensor, exact: torch.Tensor) -> float:
    found, exact = found.detach().double(), exact.detach().double()
    return float((found - exact).norm() / exact.norm().clamp(min=1e-9))


def _run(inputs: list[torch.Tensor], weight: torch.Tensor, backend: str | None):
    y = bi_wkv(*inputs, backend=backend)
    return y, torch.autograd.grad((y * weight).sum(), inputs)


@pytest.fixture
def poisoned(monkeypatch):
    """A path that forgets an element of fresh memory shows it as NaN."""
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, **k: empty(*a, **k).fill_(float("nan")))


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("case", CASES)
def test_float64_equals_the_formula_forward_and_every_gradient(case, backend, poisoned):
    inputs, weight = _inputs(case)
    exact, wanted = _run(inputs, weight, "reference")
    found, got = _run(inputs, weight, backend)
    assert found.dtype == torch.float64
    assert _relative(found, exact) < 1e-9
    for name, g, w in zip(NAMES, got, wanted, strict=True):
        assert isinstance(g, torch.Tensor), name
        assert _relative(g, w) < 1e-9, name


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("case", CASES)
def test_float32_stays_close_to_fp64_even_for_keys_of_60(case, backend, poisoned):
    exact, wanted = _run(*_inputs(case), "reference")
    inputs, weight = _inputs(case, torch.float32)
    found, got = _run(inputs, weight, backend)
    assert found.dtype == torch.float32
    # pinned is 1e-4, which a float32 recurrence misses; both sum in float64, so only the result is rounded
    limit = 2e-7
    assert _relative(found, exact) < limit
    for name, g, w in zip(NAMES, got, wanted, strict=True):
        assert torch.isfinite(g).all(), name
        assert _relative(g, w) < limit, name


def _compare(w, u, k, v, limit=1e-9):
    inputs = [x.detach().clone().requires_grad_() for x in (w, u, k, v)]
    weight = torch.randn(v.shape, generator=torch.Generator().manual_seed(3), dtype=v.dtype)
    exact, wanted = _run(inputs, weight, "reference")
    found, got = _run(inputs, weight, "cpu")
    assert _relative(found, exact) < limit
    for name, g, w_ in zip(NAMES, got, wanted, strict=True):
        assert _relative(g, w_) < limit, name


@pytest.mark.parametrize("far", ["key", "bonus", "decay", "two chunks"])
def test_what_no_common_scale_holds_is_still_exact_beside_what_it_does(far, poisoned, monkeypatch):
    from medvit.kernels.bi_wkv import stable as careful

    taken = []
    careful_forward = careful.forward
    monkeypatch.setattr(careful, "forward", lambda jobs, which, *rest: (taken.append(which.tolist()), careful_forward(jobs, which, *rest)))  # fmt: skip
    (w, u, k, v), _ = _inputs("odd")
    k = torch.cat([k] * 4, 1).detach()
    v = torch.cat([v, v.flip(1), v, v], 1).detach()
    w, u = w.detach().clone(), u.detach().clone()
    # in the channels of the second group of lanes only, so that both ways run in one call
    if far == "key":
        k[1, 70, 9] = 1000.0
    elif far == "bonus":
        u[9] = -300.0
    elif far == "decay":
        w[10] = -30.0
    else:
        k[1, :64, 8] -= 900.0
    _compare(w, u, k, v)
    pairs = [[1, 8]] if far in ("key", "two chunks") else [[0, 8], [1, 8]]
    assert taken == [pairs]


@pytest.mark.parametrize(("channels", "side"), [(8, 13), (11, 9)])
def test_the_columns_of_an_image_are_read_where_they_lie(channels, side, poisoned):
    g = torch.Generator().manual_seed(2)
    image = torch.randn(2, 2, channels, side * side, generator=g, dtype=torch.float64)
    # channels far apart, and tokens with a gap between them
    k, v = image.movedim(2, 3).unbind(0)
    w, u = torch.randn(2, channels, generator=g, dtype=torch.float64)
    assert k.stride(2) != 1
    wanted = bi_wkv(w, u, k.contiguous(), v.contiguous())
    assert torch.equal(bi_wkv(w, u, k, v), wanted)
    wide = torch.randn(2, side * side, 2 * channels + 3, generator=g, dtype=torch.float64)
    k = wide[..., 1 : channels + 1]
    assert torch.equal(bi_wkv(w, u, k, v), bi_wkv(w, u, k.contiguous(), v.contiguous()))
    assert _relative(bi_wkv(w, u, k, v), bi_wkv(w, u, k, v, backend="reference")) < 1e-9


def test_the_exponential_of_the_lanes_is_exact_to_its_stated_error():
    from numba import njit

    from medvit.kernels.bi_wkv.simd import LANES, exp, get, put

    @njit
    def fill(x, y):
        for row in range(x.shape[0]):
            put(y, (row, 0), exp(get(x, (row, 0))))

    x = np.concatenate([np.linspace(-708, 708, 40_000), np.linspace(-1, 1, 40_000)]).reshape(-1, LANES)
    y = np.empty_like(x)
    fill(x, y)
    assert np.abs(y / np.exp(x) - 1).max() < 4e-16
    far = np.full((1, LANES), -1e300)
    y = np.empty_like(far)
    fill(far, y)
    assert (y < 1e-307).all() and (y >= 0).all()


def test_a_long_sequence_does_not_drift():
    g = torch.Generator().manual_seed(0)
    k, v = (torch.randn(1, 50_000, 2, generator=g) for _ in range(2))
    k[0, ::7] += 50
    w, u = torch.tensor([1e-4, -1e-5]), torch.tensor([0.3, -0.2])
    doubled = [x.double() for x in (w, u, k, v)]
    # two ways that share no arithmetic: a recurrence token by token, and prefix sums by doubling
    exact = bi_wkv(*doubled, backend="torch")
    assert _relative(bi_wkv(*doubled), exact) < 1e-9
    assert _relative(bi_wkv(w, u, k, v), exact) < 2e-7


@pytest.mark.parametrize("backend", ("reference", *FAST))
def test_one_token_gives_its_value_and_zero_gradients_as_tensors(backend):
    inputs, weight = _inputs("one token")
    y, (gw, gu, gk, gv) = _run(inputs, weight, backend)
    assert torch.equal(y, inputs[3])
    for zero in (gw, gu, gk):
        assert isinstance(zero, torch.Tensor)
        assert not zero.any()
    assert torch.equal(gv, weight)


@pytest.mark.parametrize("backend", ("reference", *FAST))
def test_a_constant_added_to_every_key_changes_nothing(backend):
    (w, u, k, v), _ = _inputs("odd")
    plain = bi_wkv(w, u, k, v, backend=backend)
    for constant in (-500.0, 500.0):
        assert _relative(bi_wkv(w, u, k + constant, v, backend=backend), plain) < 1e-11


@pytest.mark.parametrize("backend", ("reference", *FAST))
def test_time_reversed_input_gives_time_reversed_output(backend):
    (w, u, k, v), _ = _inputs("odd")
    assert _relative(bi_wkv(w, u, k.flip(1), v.flip(1), backend=backend).flip(1), bi_wkv(w, u, k, v)) < 1e-12


@pytest.mark.parametrize("backend", FAST)
def test_strides_do_not_matter(backend):
    (w, u, k, v), weight = _inputs("odd")
    wanted = _run([w, u, k, v], weight, backend)
    views = [
        torch.stack([w, w], -1)[:, 0],
        u,
        k.detach().movedim(1, 2).contiguous().movedim(2, 1).requires_grad_(),
        torch.cat([v, v], -1)[..., : v.shape[-1]],
    ]
    assert not views[2].is_contiguous() and not views[3].is_contiguous()
    found = _run(views, weight.expand_as(k), backend)
    assert torch.equal(found[0], wanted[0])
    for name, g, w_ in zip(NAMES, found[1], wanted[1], strict=True):
        assert _relative(g, w_) < 1e-13, name


def test_gradient_of_a_plain_sum_arrives_expanded():
    inputs, _ = _inputs("odd", torch.float32)
    grads = torch.autograd.grad(bi_wkv(*inputs).sum(), inputs)
    wanted = torch.autograd.grad(bi_wkv(*inputs, backend="reference").sum(), inputs)
    assert _relative(grads[3], wanted[3]) < 1e-5


def test_is_deterministic():
    inputs, weight = _inputs("odd", torch.float32)
    first, second = (_run(inputs, weight, "cpu") for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert all(torch.equal(a, b) for a, b in zip(first[1], second[1], strict=True))


def test_many_threads_at_once_get_the_same():
    """A label server calls from several threads; numba's plainest threading layer would abort the process."""
    from concurrent.futures import ThreadPoolExecutor

    inputs = [x.detach() for x in _inputs("odd", torch.float32)[0]]
    alone = bi_wkv(*inputs)
    with ThreadPoolExecutor(8) as pool:
        assert all(torch.equal(y, alone) for y in pool.map(lambda _: bi_wkv(*inputs), range(64)))


def test_reference_tensors(shared):
    stored = np.load(shared / "parity" / "biwkv_fp64.npz")
    cases = sorted({name.split("/")[0] for name in stored.files})
    assert len(cases) == 10
    for case in cases:
        for dtype, limit in ((torch.float64, 1e-9), (torch.float32, 1e-4)):
            *inputs, weight = (torch.from_numpy(stored[f"{case}/{n}"]).to(dtype) for n in (*NAMES, "gy"))
            y, grads = _run([x.requires_grad_() for x in inputs], weight, None)
            assert _relative(y, torch.from_numpy(stored[f"{case}/y"])) < limit, case
            for name, g in zip(NAMES, grads, strict=True):
                assert _relative(g, torch.from_numpy(stored[f"{case}/g{name}"])) < limit, (case, name)
