"""nnU-Net's resampling, order of axes, normalisation and labels, compared with their formulas."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy.ndimage import map_coordinates
from skimage.transform import resize

from medvit.interop.nnunet import NnunetLabelsd, NnunetPreprocessd
from medvit.interop.nnunet.plans import read_dataset
from medvit.interop.nnunet.preprocessing import NnunetGrid
from medvit.interop.nnunet.resampling import Resampling, coarse_axis, resample
from tests.interop.nnunet import models

_PLAIN = {"scheme": "NoNormalization", "use_mask": False}


def _step(**changes):
    settings = {
        "spacing": (1.0, 1.0, 1.0),
        "transpose": (0, 1, 2),
        "normalizations": [_PLAIN],
        "resampling": {"order": 3},
        "resampling_logits": {"order": 1},
        **changes,
    }
    return NnunetPreprocessd("image", **settings)


def _image(shape, spacing=(1.0, 1.0, 1.0), seed=0):
    values = torch.rand((1, *shape), generator=torch.Generator().manual_seed(seed)) + 0.5
    return MetaTensor(values, affine=torch.from_numpy(np.diag([*spacing, 1.0])))


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("size", [(7, 30, 9), (20, 11, 16)])
def test_a_resampling_is_that_of_skimage(order, size):
    image = torch.rand(2, 12, 17, 16, generator=torch.Generator().manual_seed(1))
    made = resample(image, size, Resampling(order=order), None)
    for found, values in zip(made.numpy(), image.numpy(), strict=True):
        wanted = resize(values.astype(float), size, order, mode="edge", anti_aliasing=False)
        np.testing.assert_allclose(found, wanted, atol=2e-6)


def test_separate_planes_are_splines_in_plane_and_the_nearest_plane_across():
    image = torch.rand(1, 6, 15, 14, generator=torch.Generator().manual_seed(2))
    spacing, wanted = (5.0, 1.0, 1.0), (3.0, 1.5, 1.5)
    assert coarse_axis(Resampling(order=3), spacing, wanted) == 0
    assert coarse_axis(Resampling(order=3), (2.0, 1.0, 1.0), (1.0, 1.0, 4.0)) == 2
    assert coarse_axis(Resampling(order=3), (5.0, 5.0, 1.0), wanted) is None
    assert coarse_axis(Resampling(order=3, separate_z=False), spacing, wanted) is None
    size = (10, 10, 9)
    made = resample(image, size, Resampling(order=3), 0)[0].numpy()
    planes = [resize(plane.astype(float), size[1:], 3, mode="edge", anti_aliasing=False) for plane in image[0].numpy()]
    at = [6 / 10 * (row + 0.5) - 0.5 for row in range(10)]
    rows, columns, depth = np.meshgrid(at, np.arange(10), np.arange(9), indexing="ij")
    expected = map_coordinates(np.stack(planes), [rows, columns, depth], order=0, mode="nearest")
    np.testing.assert_allclose(made, expected, atol=2e-6)


@pytest.mark.parametrize("transpose", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
@pytest.mark.parametrize("orientation", ["stored", "RAS"])
def test_labels_return_to_the_axes_and_the_box_of_the_source(transpose, orientation):
    values = torch.zeros(1, 9, 8, 7)
    values[0, 2:8, 1:7, 3:6] = torch.randint(1, 4, (6, 6, 3), generator=torch.Generator().manual_seed(0)).float()
    affine = torch.from_numpy(nib.affines.from_matvec(np.array([[0, -1.0, 0], [1.0, 0, 0], [0, 0, -1.0]]), [3, 4, 5]))
    step = _step(transpose=transpose, orientation=orientation)
    ready = step({"image": MetaTensor(values, affine=affine)})
    assert ready["image"].shape[1:] == NnunetGrid.of(ready["image"]).box
    assert ready["image"].numel() == 6 * 6 * 3
    logits = torch.stack([(ready["image"][0] == number).float() for number in range(4)])
    labels = NnunetLabelsd("pred")({**ready, "pred": logits.as_tensor()})["pred"]
    assert torch.equal(labels.as_tensor()[0].float(), values[0])
    assert torch.equal(labels.affine, affine)


@pytest.mark.parametrize(("spacing", "coarse"), [((1.0, 1.0, 1.5), -1), ((1.0, 1.0, 5.0), 0), ((5.0, 1.0, 1.0), 2)])
def test_labels_by_planes_are_the_argmax_of_resampled_logits(spacing, coarse):
    image = _image((13, 12, 11), spacing)
    ready = _step(spacing=(1.0, 1.2, 1.3))({"image": image})["image"]
    grid = NnunetGrid.of(ready)
    assert grid.coarse == coarse
    logits = torch.randn(3, *grid.size, generator=torch.Generator().manual_seed(3))
    sink = NnunetLabelsd("pred").planes(ready)
    for planes in logits.split(5, 1):
        sink.add_planes(planes)
    big = resample(logits.double(), grid.box, Resampling(order=1), None if coarse < 0 else coarse)
    expected = grid.to_source(big.argmax(0))
    assert float((sink.labels()[0].as_tensor() != expected).float().mean()) < 1e-3


def test_regions_are_written_in_their_order_later_over_earlier():
    about = read_dataset(
        models.dataset(
            labels={"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3, "ignore": 4},
            regions_class_order=[1, 2, 3],
        )
    )
    assert (about.heads, about.regions, about.ignore) == (3, (1, 2, 3), True)
    assert about.labels == (("whole", 1), ("core", 2), ("enhancing", 3))
    ready = _step()({"image": _image((4, 3, 2))})["image"]
    logits = torch.full((3, 2, 3, 4), -1.0)
    logits[0, :, :2] = 1.0
    logits[2, 0] = 2.0
    labels = NnunetLabelsd("pred", regions=(1, 2, 3))({"image": ready, "pred": logits})["pred"][0].as_tensor()
    expected = torch.zeros(2, 3, 4, dtype=torch.uint8)
    expected[:, :2] = 1
    expected[0] = 3
    assert torch.equal(labels, expected.permute(2, 1, 0))


def test_each_normalisation_follows_its_formula():
    values = torch.arange(-10.0, 54.0).reshape(1, 4, 4, 4)
    values[values.abs() < 4] = 0
    image = MetaTensor(values, affine=torch.eye(4))

    def made(**settings):
        return _step(normalizations=[{"use_mask": False, **settings}])({"image": image})["image"].as_tensor().numpy()

    plain = values.numpy().transpose(0, 3, 2, 1)
    ct = made(scheme="CTNormalization", mean=20.0, std=5.0, lowest=0.0, highest=40.0)
    np.testing.assert_allclose(ct, (plain.clip(0, 40) - 20) / 5, rtol=1e-6)
    np.testing.assert_allclose(made(scheme="ZScoreNormalization"), (plain - plain.mean()) / plain.std(), rtol=1e-4)
    np.testing.assert_allclose(made(scheme="RescaleTo01Normalization"), (plain + 10) / 63, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(made(scheme="NoNormalization"), plain)
    masked = made(scheme="ZScoreNormalization", use_mask=True)
    inside = plain != 0
    np.testing.assert_allclose(
        masked[inside], ((plain - plain[inside].mean()) / plain[inside].std())[inside], rtol=1e-4
    )
    assert not masked[~inside].any()
