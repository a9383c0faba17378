from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from medvit.errors import ShapeError
from medvit.kernels import resample_argmax


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
