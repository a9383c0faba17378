"""The steps that replace MONAI's give MONAI's values."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys
import warnings

import monai.transforms as theirs
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from medvit import open_source
from medvit.errors import ShapeError
from medvit.io import GridImage
from medvit.transforms import (
    AsDiscreted,
    Compose,
    KeyedTransform,
    ScaleIntensityRanged,
    ScaleIntensityRangePercentilesd,
    ScaleRangeToUnitd,
)

NOISE = torch.randn(2, 13, 11, 7, generator=torch.Generator().manual_seed(0)) * 700
IMAGES = {
    "noise": NOISE,
    "double precision": NOISE.double(),
    "more values than torch sorts": torch.randn(1, 104, 100, 98, generator=torch.Generator().manual_seed(1)),
    "constant": torch.full((1, 5, 6, 7), 3.0),
    "zero": torch.zeros(1, 5, 6, 7),
    "one voxel": torch.full((1, 1, 1, 1), -7.0),
    "nearly constant": torch.full((1, 5, 6, 7), 3.0).index_fill(1, torch.tensor([2]), 9.0),
    "not a number in one voxel": NOISE.clone().index_fill(1, torch.tensor([3]), math.nan),
    "not contiguous": NOISE.permute(0, 3, 1, 2),
}


def _grid(values: torch.Tensor) -> GridImage:
    return GridImage(values=values, affine=torch.eye(4, dtype=torch.float64), meta={"filename_or_obj": "scan"})


def _equal(ours: KeyedTransform, monai_step: theirs.MapTransform, values: torch.Tensor) -> None:
    """Compare both steps, ours on each kind of image."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # both warn of a range of width 0
        wanted = monai_step({"image": MetaTensor(values, meta={"filename_or_obj": "scan"})})["image"]
        light = ours({"image": _grid(values)})["image"]
        heavy = ours({"image": MetaTensor(values, meta={"filename_or_obj": "scan"})})["image"]
        plain = ours({"image": values})["image"]
    assert isinstance(light, GridImage) and isinstance(heavy, MetaTensor) and type(plain) is torch.Tensor
    assert light.meta["filename_or_obj"] == heavy.meta["filename_or_obj"] == "scan"
    for found in (light.as_tensor(), heavy.as_tensor(), plain):
        assert found.dtype == wanted.dtype
        assert np.array_equal(found.numpy(), wanted.as_tensor().numpy(), equal_nan=True)


@pytest.mark.parametrize("values", IMAGES.values(), ids=IMAGES)
@pytest.mark.parametrize(
    "settings",
    [
        {"lower": 1.0, "upper": 99.0, "b_min": 0.0, "b_max": 1.0, "clip": True},
        {"lower": 0.5, "upper": 99.5, "b_min": -1.0, "b_max": 1.0, "clip": False},
        {"lower": 0.0, "upper": 100.0, "b_min": None, "b_max": None},
        {"lower": 30, "upper": 30, "b_min": 0.25, "b_max": 1.0, "clip": True},
    ],
)
def test_percentiles_scale_as_monai_scales_them(values, settings):
    ours, monai_step = (
        kind("image", **settings) for kind in (ScaleIntensityRangePercentilesd, theirs.ScaleIntensityRangePercentilesd)
    )
    _equal(ours, monai_step, values)


@pytest.mark.parametrize("values", [*IMAGES.values(), (NOISE).to(torch.int16)], ids=[*IMAGES, "whole numbers"])
@pytest.mark.parametrize(
    "settings",
    [
        {"a_min": -1000, "a_max": 1000, "b_min": 0.0, "b_max": 1.0, "clip": True},
        {"a_min": -175.0, "a_max": 250.0, "b_min": 0.0, "b_max": 1.0},
        {"a_min": 0.0, "a_max": 255.0},
        {"a_min": 0.0, "a_max": 255.0, "b_min": 0.0, "clip": True},
        {"a_min": 7, "a_max": 7, "b_min": 0.5, "b_max": 1.0, "clip": True},
        {"a_min": 7, "a_max": 7},
    ],
)
def test_ranges_scale_as_monai_scales_them(values, settings):
    ours, monai_step = (kind("image", **settings) for kind in (ScaleIntensityRanged, theirs.ScaleIntensityRanged))
    _equal(ours, monai_step, values)


@pytest.mark.parametrize("values", IMAGES.values(), ids=IMAGES)
@pytest.mark.parametrize("settings", [{"threshold": 0.0}, {"argmax": True}, {"argmax": True, "threshold": 1}])
def test_masks_and_labels_are_those_of_monai(values, settings):
    _equal(AsDiscreted("image", **settings), theirs.AsDiscreted("image", **settings), values)


def test_a_real_scan_is_scaled_as_by_monai(examples):
    values = torch.from_numpy(open_source(examples / "headneck_ct.nii.gz").array)
    range_ = {"a_min": -1000, "a_max": 1000, "b_min": 0.0, "b_max": 1.0, "clip": True}
    _equal(ScaleIntensityRanged("image", **range_), theirs.ScaleIntensityRanged("image", **range_), values)
    shares = {"lower": 1.0, "upper": 99.0, "b_min": 0.0, "b_max": 1.0, "clip": True}
    ours, monai_step = (
        kind("image", **shares) for kind in (ScaleIntensityRangePercentilesd, theirs.ScaleIntensityRangePercentilesd)
    )
    _equal(ours, monai_step, values)


def test_percentiles_beyond_a_hundred_are_refused():
    with pytest.raises(ShapeError, match="percentiles -1 and 99; they must lie between 0 and 100"):
        ScaleIntensityRangePercentilesd("image", lower=-1, upper=99, b_min=0, b_max=1)


def test_a_missing_key_is_named_unless_it_may_be_missing():
    with pytest.raises(KeyError, match="AsDiscreted needs the key 'pred', which the data lack"):
        AsDiscreted("pred", threshold=0)({"image": NOISE})
    assert AsDiscreted(["pred", "image"], threshold=0, allow_missing_keys=True)({"image": NOISE}).keys() == {"image"}
    with pytest.raises(ValueError, match="AsDiscreted needs at least one key"):
        AsDiscreted([])


def test_a_sequence_applies_its_steps_in_order_and_can_be_sent_to_a_worker():
    steps = Compose([ScaleRangeToUnitd("image", low=0, high=100), AsDiscreted("image", threshold=0.5)])
    found = pickle.loads(pickle.dumps(steps))({"image": torch.tensor([[49.0, 50.0, 200.0]])})["image"]
    assert found.tolist() == [[0.0, 1.0, 1.0]]


def test_datasets_that_cache_take_our_steps_for_deterministic_ones():
    code = """
import monai.transforms
import torch
from monai.data import CacheDataset
from monai.transforms import RandFlipd
from medvit.transforms import ScaleIntensityRanged
steps = [ScaleIntensityRanged("image", a_min=0, a_max=2), RandFlipd("image")]
cached = CacheDataset([{"image": torch.ones(1, 2, 2, 2)}], steps, progress=False)
assert float(cached._cache[0]["image"].max()) == 0.5
"""
    outcome = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr
