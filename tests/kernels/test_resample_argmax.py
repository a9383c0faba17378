from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

from medvit.errors import BackendError, ImageError, ShapeError
from medvit.kernels.resample_argmax import cpu, resample_argmax, torch_slabs
from medvit.kernels.resample_argmax.axes import axes


@pytest.mark.parametrize("out", [(23, 17, 40), (5, 6, 7), (11, 9, 13)])
def test_equals_interpolating_all_logits_first(out):
    logits = torch.randn(6, 11, 9, 13, generator=torch.Generator().manual_seed(0))
    whole = F.interpolate(logits[None], size=out, mode="trilinear", align_corners=False)[0]
    top = whole.topk(2, 0).values
    clear = (top[0] - top[1]) > 1e-4  # where two classes tie, rounding may choose either
    assert clear.float().mean() > 0.99
    assert torch.equal(resample_argmax(logits, out_shape=out)[clear].long(), whole.argmax(0)[clear])


def test_a_box_of_the_grid_leaves_background_around_it():
    grid = torch.full((2, 10, 10, 10), -1.0)
    grid[1] = 1.0
    found = resample_argmax(grid[:, 2:6, 3:9, 1:4], out_shape=(20, 20, 20), grid_shape=(10, 10, 10), start=(2, 3, 1))
    wanted = torch.zeros(20, 20, 20, dtype=torch.uint8)
    wanted[4:12, 6:18, 2:8] = 1
    assert torch.equal(found, wanted)


def test_many_classes_need_more_than_a_byte():
    logits = torch.zeros(300, 2, 2, 2)
    logits[299] = 1
    assert int(resample_argmax(logits, out_shape=(3, 3, 3)).max()) == 299


def test_a_box_outside_the_grid_is_refused():
    with pytest.raises(ShapeError, match="the box must lie within"):
        resample_argmax(torch.zeros(2, 4, 4, 4), out_shape=(8, 8, 8), grid_shape=(5, 5, 5), start=(2, 0, 0))


@pytest.mark.parametrize("backend", ["cpu", "torch"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_every_path_chooses_as_the_definition_in_fp64(backend, dtype):
    logits = torch.randn(5, 7, 6, 9, generator=torch.Generator().manual_seed(1)).to(dtype).permute(0, 2, 1, 3)
    for out in ((13, 5, 21), (1, 1, 1), (6, 7, 9)):
        box = {"out_shape": out, "grid_shape": (8, 9, 11), "start": (1, 2, 0), "background": 3}
        wanted = resample_argmax(logits, backend="reference", **box)
        found = resample_argmax(logits, backend=backend, **box)
        assert found.dtype == torch.uint8
        assert (found != wanted).float().mean() < 1e-3  # float32 may break a near tie the other way


def test_of_equal_logits_the_first_wins():
    for backend in ("cpu", "torch", "reference"):
        assert not resample_argmax(torch.zeros(3, 2, 3, 4), out_shape=(5, 5, 5), backend=backend).any()


def test_the_operator_is_registered_as_pytorch_wants_it():
    arguments = (torch.randn(3, 4, 4, 4), [5, 6, 7], [4, 4, 4], [0, 0, 0], 0, "cpu")
    torch.library.opcheck(torch.ops.medvit.resample_argmax.default, arguments)


def test_compile_and_export_see_one_operator():
    class Choose(torch.nn.Module):
        def forward(self, logits):
            return resample_argmax(logits, out_shape=(5, 6, 7))

    logits = torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    wanted = Choose()(logits)
    assert torch.equal(torch.compile(Choose(), fullgraph=True, backend="eager")(logits), wanted)
    assert torch.equal(torch.export.export(Choose(), (logits,)).module()(logits), wanted)


def test_bad_input_is_named():
    good = torch.zeros(2, 4, 4, 4)
    with pytest.raises(ShapeError, match="floating-point numbers of at least one class and voxel"):
        resample_argmax(good.int(), out_shape=(8, 8, 8))
    with pytest.raises(ShapeError, match="floating-point numbers of at least one class and voxel"):
        resample_argmax(good[:0], out_shape=(8, 8, 8))
    with pytest.raises(ShapeError, match="background of 300 for 2 classes; it must lie within 0..255"):
        resample_argmax(good, out_shape=(8, 8, 8), background=300)
    bad = good.clone()
    bad[1, 0, 0, 0] = float("nan")
    with pytest.raises(ImageError, match="NaN or infinite values in the logits of class 1"):
        resample_argmax(bad, out_shape=(8, 8, 8))
    with pytest.raises(
        BackendError, match="Found that the 'triton' backend of resample_argmax cannot run: .*[Tt]riton"
    ):
        resample_argmax(good, out_shape=(8, 8, 8), backend="triton")
    with pytest.raises(BackendError, match="interpolated logits at once, which is for small images. Use backend=.cpu."):
        resample_argmax(good, out_shape=(512, 512, 512), backend="reference")


def test_plain_numbers_do_not_start_the_compiler():
    """It takes a second to import, which every command would wait for."""
    code = (
        "import sys, torch; from medvit.kernels.resample_argmax import resample_argmax; "
        "resample_argmax(torch.rand(3, 4, 5, 6), out_shape=(8, 9, 10)); sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("out, grid, start", [((8, 9, 11), (8, 9, 11), (1, 2, 0)), ((8, 3, 11), (8, 9, 11), (0, 1, 2))])
def test_where_nothing_is_interpolated_the_compiled_loop_gives_the_same_labels(out, grid, start):
    logits = torch.randn(4, 6, 7, 9, generator=torch.Generator().manual_seed(2)).mul(2).round()  # with many ties
    x, y, z = axes(logits.shape[1:], grid, start, out)
    assert torch_slabs.is_on_grid(logits, x, y, z)
    wanted, found = torch.full(out, 7, dtype=torch.uint8), torch.full(out, 7, dtype=torch.uint8)
    cpu.choose(logits, x, y, z, wanted)
    torch_slabs.choose_on_grid(logits, x, y, z, found)
    assert torch.equal(found, wanted) and found.unique().numel() > 3
    x, y, z = axes(logits.shape[1:], grid, start, (9, 9, 11))
    assert not torch_slabs.is_on_grid(logits, x, y, z)


def test_where_nothing_is_interpolated_numba_is_not_loaded():
    code = """
import sys, torch
from medvit.kernels import resample_argmax
logits = torch.rand(3, 4, 5, 6)
assert torch.equal(resample_argmax(logits, out_shape=(4, 5, 6)).long(), logits.argmax(0))
assert "numba" not in sys.modules
resample_argmax(logits, out_shape=(4, 5, 7))
assert "numba" in sys.modules
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
