from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor, decollate_batch, list_data_collate

from medvit.errors import ShapeError
from medvit.io import axis_codes, spacing_mm, world
from medvit.transforms import (
    ArgmaxOnSourceGridd,
    CropToBodyd,
    KeepLargestComponentLogitsd,
    NetworkGrid,
    ResampleToNetworkGridd,
)
from tests.bands import all_orientations, oblique_affine, phantom, reorient, undo


def _image(array: np.ndarray, affine: np.ndarray) -> MetaTensor:
    tensor = torch.from_numpy(array.astype(np.float32))[None]
    affine = torch.from_numpy(affine)
    return MetaTensor(tensor, affine=affine, meta={"original_affine": affine.clone()})


@pytest.mark.parametrize(("order", "signs"), all_orientations(), ids=str)
def test_every_orientation_reaches_the_network_alike_and_comes_back(order, signs):
    values, labels = phantom()
    base = oblique_affine((2.0, 2.0, 2.0))
    stored, affine = reorient(values, base, order, signs)
    steps = [ResampleToNetworkGridd("image", (2.0, 2.0, 2.0)), CropToBodyd("image", threshold=-500, margin=1)]
    data = {"image": _image(stored, affine)}
    for step in steps:
        data = step(data)
    straight = {"image": _image(values, base)}
    for step in steps:
        straight = step(straight)
    assert torch.equal(data["image"].as_tensor(), straight["image"].as_tensor())
    assert axis_codes(np.asarray(data["image"].affine)) == "RAS"

    logits = -(data["image"].as_tensor() - (torch.arange(8) / 8 * 500 - 200).view(-1, 1, 1, 1)).abs()
    logits[0] = torch.where(data["image"].as_tensor()[0] < -500, 1.0, -1e4)
    back = ArgmaxOnSourceGridd("pred")({**data, "pred": logits})["pred"]
    assert back.shape == (1, *stored.shape)
    assert np.allclose(back.affine, affine)
    assert np.array_equal(undo(np.asarray(back[0]), order, signs), labels)


@pytest.mark.parametrize("spacing", [(2.0, 2.0, 2.0), (3.3, 1.1, 2.7), (0.9, 4.0, 2.0)])
def test_the_grid_affine_says_where_voxels_are(spacing):
    """A linear field in world coordinates keeps its values at the grid's own coordinates."""
    affine = oblique_affine((1.5, 1.25, 3.0))
    shape = (31, 40, 17)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1).reshape(-1, 3)
    field = (world(affine, index) @ (1.0, -2.0, 0.5)).reshape(shape)
    moved = ResampleToNetworkGridd("image", spacing)({"image": _image(field, affine)})["image"]
    grid = moved.shape[1:]
    inner = [np.arange(int(n * 0.3), max(int(n * 0.7), int(n * 0.3) + 1)) for n in grid]
    index = np.stack(np.meshgrid(*inner, indexing="ij"), -1).reshape(-1, 3)
    wanted = world(np.asarray(moved.affine), index) @ (1.0, -2.0, 0.5)
    found = moved.as_tensor().numpy()[0][np.ix_(*inner)].reshape(-1)
    assert np.abs(found - wanted).max() < 0.05
    assert all(
        abs(s - t) < 0.5 * t / n + 0.05 * t
        for s, t, n in zip(spacing_mm(np.asarray(moved.affine)), spacing, grid, strict=True)
    )


def test_shrinking_smooths_first(rng):
    """Noise finer than the grid is averaged away instead of sampled."""
    noise = rng.normal(size=(64, 64, 64))
    moved = ResampleToNetworkGridd("image", (4.0, 4.0, 4.0))({"image": _image(noise, np.eye(4))})["image"]
    assert float(moved.std()) < 0.25


def test_the_way_back_survives_collating():
    values, _ = phantom()
    data = ResampleToNetworkGridd("image", (2.0, 2.0, 2.0))({"image": _image(values, oblique_affine())})
    before = NetworkGrid.unpack(data["image"].meta["network_grid"])
    item = decollate_batch(list_data_collate([data]))[0]
    assert NetworkGrid.unpack(torch.as_tensor(item["image"].meta["network_grid"])) == before


def test_nothing_above_the_threshold_leaves_the_image_whole():
    data = ResampleToNetworkGridd("image", (1.0, 1.0, 1.0))({"image": _image(np.zeros((9, 8, 7)), np.eye(4))})
    assert CropToBodyd("image", threshold=0.5)(data)["image"].shape == (1, 9, 8, 7)


def test_keep_largest_gives_stray_pieces_to_background():
    logits = torch.zeros(3, 12, 12, 12)
    logits[0] = 1
    logits[1, 1:6, 1:6, 1:6] = 2
    logits[1, 9:11, 9:11, 9:11] = 2
    logits[2, 9:11, 9:11, 9:11] = 1.5  # would win where class 1 is taken away
    best = KeepLargestComponentLogitsd("pred", (1, 2))({"pred": logits})["pred"].argmax(0)
    assert int((best == 1).sum()) == 125
    assert int((best > 0).sum()) == 125


def test_logits_of_another_size_are_refused():
    data = ResampleToNetworkGridd("image", (2.0, 2.0, 2.0))({"image": _image(*(phantom()[0], np.eye(4)))})
    with pytest.raises(ShapeError, match="they must match"):
        ArgmaxOnSourceGridd("pred")({**data, "pred": torch.zeros(2, 3, 3, 3)})


def test_without_smoothing_resampling_is_plain_interpolation():
    """Published weights may have been trained so; detail finer than the grid then passes."""
    stripes = np.where(np.arange(40)[:, None, None] % 2, 100.0, -100.0) * np.ones((1, 12, 12))
    image = {"image": _image(stripes, np.diag([1.0, 1.0, 1.0, 1.0]))}
    plain, smoothed = (
        ResampleToNetworkGridd("image", (3.0, 1.0, 1.0), smooth=smooth)(image)["image"].as_tensor()
        for smooth in (False, True)
    )
    assert plain.shape == smoothed.shape == (1, 13, 12, 12)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(stripes)[None, None].float(), size=(13, 12, 12), mode="trilinear"
    )[0]
    assert torch.equal(plain, expected)
    assert float(smoothed.std()) < 0.5 * float(plain.std())
