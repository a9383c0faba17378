from __future__ import annotations

import pytest
import torch

from medvit.errors import BackendError, ShapeError
from medvit.kernels.overlap_add import overlap_add
from medvit.kernels.overlap_add.blend import Blend
from medvit.kernels.overlap_add.reference import overlap_add_reference

GENERATOR = torch.Generator().manual_seed(5)
CASES = [((11, 7), (4, 3), 2), ((9, 7, 8), (5, 3, 4), 2), ((13,), (5,), 3), ((5, 6), (5, 6), 1)]


def grid(size: tuple[int, ...], roi: tuple[int, ...], step: int) -> torch.Tensor:
    """Origins that cover every voxel, the last ones moved back to the edge."""
    starts = [sorted({*range(0, n - r, step), n - r}) for n, r in zip(size, roi, strict=True)]
    return torch.cartesian_prod(*map(torch.tensor, starts)).reshape(-1, len(size))


def make(size: tuple[int, ...], roi: tuple[int, ...], step: int, dtype: torch.dtype, channels: int = 3):
    origins = grid(size, roi, step)
    windows = torch.randn(len(origins), channels, *roi, generator=GENERATOR, dtype=torch.float64).to(dtype)
    weight = (torch.rand(roi, generator=GENERATOR, dtype=torch.float64) + 0.01).to(dtype)
    return windows, origins, weight


@pytest.fixture
def poisoned(monkeypatch):
    """Fresh memory holds NaN, so that a voxel nobody wrote is seen."""
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, **k: empty(*a, **k).fill_(torch.nan if "dtype" not in k else 99))


@pytest.mark.parametrize(("size", "roi", "step"), CASES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 1e-5)])
def test_equals_the_formula(size, roi, step, dtype, tolerance, poisoned):
    windows, origins, weight = make(size, roi, step, dtype)
    found = overlap_add(windows, origins, size, weight)
    assert found.dtype == dtype
    wanted = overlap_add_reference(windows, origins, size, weight)
    assert float((found - wanted).abs().max()) <= tolerance


def test_windows_need_not_be_contiguous():
    windows, origins, weight = make((9, 8), (4, 5), 2, torch.float64)
    strided = windows.movedim(1, -1).contiguous().movedim(-1, 1)
    assert not strided.is_contiguous()
    assert torch.equal(overlap_add(strided, origins, (9, 8), weight), overlap_add(windows, origins, (9, 8), weight))


def test_gradients_pass_through():
    windows, origins, weight = make((6, 5), (4, 3), 2, torch.float64, channels=2)
    windows.requires_grad_()
    assert torch.autograd.gradcheck(lambda w: overlap_add(w, origins, (6, 5), weight), windows)


def test_the_windows_are_left_as_they_were():
    windows, origins, weight = make((9, 8), (4, 5), 2, torch.float32)
    before = windows.clone()
    overlap_add(windows, origins, (9, 8), weight)
    assert torch.equal(windows, before)


def test_messages():
    windows, origins, weight = make((9, 8), (4, 5), 2, torch.float32)
    with pytest.raises(ShapeError, match=r"Found 40 voxels that no window covers; .* smaller step"):
        overlap_add(windows[:1, :, :, :4], origins[:1], (7, 8), weight[:, :4])
    with pytest.raises(ShapeError, match=r"\(window, channel, \*roi\), \(window, axis\) and \(\*roi\) are needed"):
        overlap_add(windows, origins[:, :1], (9, 8), weight)
    blend = Blend((9, 8), 3, weight)
    with pytest.raises(ShapeError, match="Give every window the same channels and size"):
        blend.add(windows[0, :2], (0, 0))
    with pytest.raises(ShapeError, match=r"at \(7, 0\) in an image of \(9, 8\); it must lie within"):
        blend.add(windows[0], (7, 0))


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_the_operator_is_registered_as_pytorch_wants_it(backend):
    windows, origins, weight = make((6, 5), (4, 3), 2, torch.float32, channels=2)
    arguments = (windows.requires_grad_(), origins, weight, [6, 5], backend)
    torch.library.opcheck(torch.ops.medvit.overlap_add.default, arguments)


def test_its_backward_is_registered_as_pytorch_wants_it():
    windows, origins, weight = make((6, 5), (4, 3), 2, torch.float32, channels=2)
    arguments = (torch.randn(2, 6, 5), origins, weight, windows)
    # it has no gradient of its own, so the check that one is registered does not apply
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.medvit.overlap_add_backward.default, arguments, test_utils=checks)


def test_compile_and_export_see_one_operator():
    windows, origins, weight = make((6, 5), (4, 3), 2, torch.float32, channels=2)

    class Add(torch.nn.Module):
        def forward(self, windows, origins, weight):
            return overlap_add(windows, origins, (6, 5), weight)

    wanted = Add()(windows, origins, weight)
    assert torch.equal(torch.compile(Add(), fullgraph=True, backend="eager")(windows, origins, weight), wanted)
    exported = torch.export.export(Add(), (windows, origins, weight))
    assert torch.equal(exported.module()(windows, origins, weight), wanted)


def test_bad_input_is_named():
    windows, origins, weight = make((9, 8), (4, 5), 2, torch.float32)
    with pytest.raises(ShapeError, match="at least one window and channel"):
        overlap_add(windows[:0], origins[:0], (9, 8), weight)
    with pytest.raises(ShapeError, match="it must lie within. Pad the image"):
        overlap_add(windows, origins, (3, 8), weight)
    with pytest.raises(ShapeError, match="the first two must be floating-point and the origins whole numbers"):
        overlap_add(windows.int(), origins, (9, 8), weight)
    with pytest.raises(ShapeError, match="windows on cpu and a weight on meta"):
        overlap_add(windows, origins, (9, 8), weight.to("meta"))
    with pytest.raises(BackendError, match="Found that the 'triton' backend of overlap_add cannot run: .*[Tt]riton"):
        overlap_add(windows, origins, (9, 8), weight, backend="triton")
    with pytest.raises(BackendError, match="must be one of triton, torch, reference"):
        overlap_add(windows, origins, (9, 8), weight, backend="cpu")
