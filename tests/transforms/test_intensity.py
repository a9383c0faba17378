"""Into the network's range and back: every voxel where it was, what was clipped untouched."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from medvit.errors import ShapeError
from medvit.transforms import IntensityOnSourceGridd, ResampleToNetworkGridd, ScaleRangeToUnitd
from tests.bands import all_orientations, oblique_affine, phantom, reorient


def _image(array: np.ndarray, affine: np.ndarray) -> MetaTensor:
    meta = {"original_affine": torch.from_numpy(affine)}
    return MetaTensor(torch.from_numpy(array[None].astype(np.float32)), affine=torch.from_numpy(affine), meta=meta)


def _there(image: MetaTensor) -> dict[str, MetaTensor]:
    return ScaleRangeToUnitd("image", -1024, 3072)(ResampleToNetworkGridd("image", None)({"image": image}))


@pytest.mark.parametrize(("order", "signs"), all_orientations(), ids=str)
def test_there_and_back_gives_the_source_in_every_orientation(order, signs):
    array, affine = reorient(phantom((9, 8, 7))[0], oblique_affine((2.0, 3.0, 4.0)), order, signs)
    data = _there(_image(array, affine))
    assert tuple(data["image"].shape[1:]) == (9, 8, 7)  # turned to RAS axes, not resampled
    back = IntensityOnSourceGridd("pred", -1024, 3072)({**data, "pred": data["image"].as_tensor()})["pred"]
    assert np.allclose(np.asarray(back)[0], array, atol=1e-3)
    assert np.allclose(back.affine, affine)


def test_what_lies_beyond_the_range_comes_back_and_inside_is_the_networks():
    array = np.array([-3024.0, -1024.0, 0.0, 3072.0, 20000.0], np.float32).reshape(5, 1, 1)
    data = _there(_image(array, np.eye(4)))
    assert float(data["image"].min()) >= 0 and float(data["image"].max()) <= 1
    darker = data["image"].as_tensor() - 100 / 4096
    back = IntensityOnSourceGridd("pred", -1024, 3072)({**data, "pred": darker})["pred"]
    assert np.allclose(np.asarray(back).ravel(), array.ravel() - 100, atol=1e-2)


def test_what_does_not_fit_is_refused():
    for low, high in ((1, 1), (2, 1), (0, float("inf")), (float("nan"), 1)):
        for make in (ScaleRangeToUnitd, IntensityOnSourceGridd):
            with pytest.raises(ShapeError, match="the first must be below the second. Correct intensity_range"):
                make("image", low, high)
    data = _there(_image(phantom((9, 8, 7))[0], np.eye(4)))
    with pytest.raises(ShapeError, match="Use ResampleToNetworkGridd with spacing_mm null and no crop"):
        IntensityOnSourceGridd("pred", 0, 1)({**data, "pred": torch.zeros(1, 9, 8, 6)})
    resampled = ResampleToNetworkGridd("image", (2, 2, 2))({"image": _image(phantom((9, 8, 7))[0], np.eye(4))})
    with pytest.raises(ShapeError, match="they must be equal"):
        IntensityOnSourceGridd("pred", 0, 1)({**resampled, "pred": torch.zeros(resampled["image"].shape)})
