"""A 2-D network over volumes: every slice where it belongs, neighbours in order, cancel between calls."""

from __future__ import annotations

import pytest
import torch

from medvit.errors import ShapeError
from medvit.inference import SliceWise
from medvit.progress import Cancelled, Progress


def _volume() -> torch.Tensor:
    return torch.rand(2, 1, 5, 6, 7, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_slices_are_those_across_the_axis(axis, batch_size):
    volume = _volume()
    shapes = []

    def network(x: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(x.shape))
        # each slice is told from the others by its mean, each pixel by its place
        return torch.cat([x, x - x.mean((2, 3), keepdim=True)], 1)

    found = SliceWise(axis, batch_size=batch_size)(volume, network)
    sides = [n for a, n in enumerate((5, 6, 7)) if a != axis]
    assert all(shape[1:] == (1, *sides) and shape[0] <= batch_size for shape in shapes)
    plane = tuple(a + 2 for a in range(3) if a != axis)
    assert found.shape == (2, 2, 5, 6, 7)
    assert torch.equal(found[:, :1], volume)
    assert torch.allclose(found[:, 1:], volume - volume.mean(plane, keepdim=True), atol=1e-6)


def test_neighbours_join_in_order_and_ends_repeat():
    volume = torch.arange(4.0).view(1, 1, 1, 1, 4)
    seen = []
    SliceWise(2, context=1)(volume, lambda x: (seen.append(x.flatten().tolist()), x[:, 1:2])[1])
    assert seen == [[0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 3]]
    assert torch.equal(SliceWise(2, context=1)(volume, lambda x: x[:, 1:2]), volume)


def test_answers_to_every_view_are_averaged_where_they_belong():
    volume = _volume()
    calls = []

    def leaning(x: torch.Tensor) -> torch.Tensor:
        # the pixel, and how far from the first row and column it lies: what turning must turn back
        calls.append(len(x))
        rows, columns = torch.meshgrid(*(torch.arange(float(n)) for n in x.shape[2:]), indexing="ij")
        return torch.cat([x, x * 0 + rows, x * 0 + columns], 1)

    found = SliceWise(2, batch_size=3, views=4)(volume, leaning)
    assert torch.allclose(found[:, :1], volume)
    assert torch.allclose(found[:, 1], torch.full_like(found[:, 1], 2))
    assert torch.allclose(found[:, 2], torch.full_like(found[:, 2], 2.5))
    assert sum(calls) == 4 * 14
    near = SliceWise(2, context=1, views=4)(volume, lambda x: x[:, 1:2] + 0.5 * x[:, :1])
    assert torch.allclose(near, SliceWise(2, context=1)(volume, lambda x: x[:, 1:2] + 0.5 * x[:, :1]))


def test_progress_counts_calls_and_cancels_between_them():
    seen = []
    progress = Progress(lambda stage, done, total: seen.append((stage, done, total)))
    SliceWise(2, batch_size=5)(_volume(), lambda x: x, progress=progress)
    assert seen == [("infer", n, 3) for n in range(4)]

    def stopping(x: torch.Tensor) -> torch.Tensor:
        progress.cancel()
        return x

    with pytest.raises(Cancelled):
        SliceWise(2)(_volume(), stopping, progress=progress)


def test_what_means_nothing_is_refused():
    for wrong in ({"axis": 3}, {"context": -1}, {"batch_size": 0}, {"views": 2}):
        with pytest.raises(
            ShapeError, match="axis must be 0, 1 or 2, context at least 0, batch_size at least 1, views 1 or 4"
        ):
            SliceWise(**wrong)
    for shape in ((1, 5, 6, 7), (1, 1, 5, 6, 0)):
        with pytest.raises(ShapeError, match=r"\(batch, channel, i, j, k\) with at least one voxel is needed"):
            SliceWise()(torch.zeros(shape), lambda x: x)
