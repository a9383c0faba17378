from __future__ import annotations

import pytest
import torch

from medvit.errors import ShapeError
from medvit.kernels.overlap_add.label_stream import LabelStream, argmax_of, sigmoid_above
from medvit.kernels.overlap_add.reference import overlap_add_reference
from tests.kernels.test_overlap_add import CASES, make, poisoned

__all__ = ["poisoned"]


def _stream(windows, origins, size, weight, **options):
    stream = LabelStream(size, windows.shape[1], weight, **options)
    for window, origin in zip(windows, origins.tolist(), strict=True):
        stream.add(window, origin)
    return stream.labels()


@pytest.mark.parametrize(("size", "roi", "step"), [*CASES, ((23, 6), (5, 4), 4), ((40, 3), (3, 3), 1)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_equals_the_argmax_of_the_formula(size, roi, step, dtype, poisoned):
    windows, origins, weight = make(size, roi, step, dtype)
    found = _stream(windows, origins, size, weight)
    assert found.dtype == torch.uint8
    blended = overlap_add_reference(windows, origins, size, weight)
    assert torch.equal(found[0].long(), blended.argmax(0))


@pytest.mark.parametrize("threshold", [0.5, 0.1, 0.83])
def test_equals_the_sigmoid_of_the_formula_above_a_threshold(threshold, poisoned):
    windows, origins, weight = make((11, 7, 5), (4, 3, 5), 2, torch.float64)
    found = _stream(windows, origins, (11, 7, 5), weight, choice=sigmoid_above(threshold), masks=3)
    wanted = overlap_add_reference(windows, origins, (11, 7, 5), weight).sigmoid() > threshold
    assert torch.equal(found.bool(), wanted)
    assert wanted.any() and not wanted.all()


def test_a_nan_does_not_outlive_its_plane():
    windows, origins, weight = make((20, 5), (4, 5), 4, torch.float32)
    windows[0, :, :2] = torch.nan
    clean = windows.nan_to_num(0)
    found, wanted = (_stream(w, origins, (20, 5), weight) for w in (windows, clean))
    assert torch.equal(found[:, 2:], wanted[:, 2:])


def test_many_classes_need_more_than_a_byte():
    windows = torch.zeros(1, 300, 2, 2)
    windows[:, 299] = 1
    assert int(_stream(windows, torch.tensor([[0, 0]]), (2, 2), torch.ones(2, 2)).max()) == 299


def test_sums_do_not_grow_with_the_length():
    held = []
    for length in (16, 1600):
        stream = LabelStream((length, 6, 5), 7, torch.ones(8, 6, 5))
        held.append(sum(t.untyped_storage().nbytes() for t in vars(stream).values() if isinstance(t, torch.Tensor)))
    assert held[1] - held[0] == 1584 * 6 * 5  # a byte a voxel: the labels


def test_messages():
    weight = torch.ones(4, 4)
    window = torch.zeros(2, 4, 4)
    stream = LabelStream((12, 4), 2, weight)
    stream.add(window, (0, 0))
    stream.add(window, (4, 0))
    with pytest.raises(
        ShapeError, match="of which 4 planes are finished; .* in the order of their first axis. Sort the windows"
    ):
        stream.add(window, (3, 0))
    with pytest.raises(ShapeError, match=r"at \(9, 0\) .* must lie within"):
        stream.add(window, (9, 0))
    with pytest.raises(ShapeError, match="Give every window the same channels and size"):
        stream.add(window[:1], (8, 0))
    with pytest.raises(ShapeError, match="Found 16 voxels that no window covers in planes 8 to 11"):
        stream.labels()
    for threshold in (0.0, 1.0, -1.0):
        with pytest.raises(ShapeError, match="must lie between 0 and 1. 0.5 is usual"):
            sigmoid_above(threshold)
    assert argmax_of(torch.tensor([[[1.0]], [[2.0]]]), torch.ones(1, 1)).item() == 1
