"""Channels of place: millimetres from the centre of brightness, whatever the grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from medvit.training.synthesis import Synthesis, SyntheticSampler, SyntheticSettings
from medvit.training.synthesis.sampler import LabelMap
from medvit.transforms import AddCoordinateChannelsd, ResampleToNetworkGridd, coordinate_channels


def test_place_is_in_100_mm_from_the_centre_of_brightness():
    image = torch.zeros(1, 11, 9, 7)
    image[0, 2, 4, 3] = image[0, 6, 4, 5] = 0.5
    out = coordinate_channels(image, (2.0, 3.0, 4.0))
    assert out.shape == (4, 11, 9, 7) and torch.equal(out[:1], image)
    assert out[1, :, 0, 0].tolist() == pytest.approx([(i - 4) * 0.02 for i in range(11)])
    assert out[2, 0, :, 0].tolist() == pytest.approx([(j - 4) * 0.03 for j in range(9)])
    assert out[3, 5, 5, :].tolist() == pytest.approx([(k - 4) * 0.04 for k in range(7)])
    dark = coordinate_channels(torch.zeros(1, 3, 3, 3), (1.0, 1.0, 1.0))
    assert bool(torch.isfinite(dark).all())


def test_right_has_higher_numbers_however_the_image_is_stored():
    values = torch.rand(1, 20, 24, 16, generator=torch.Generator().manual_seed(0))
    places = []
    for flip in (False, True):
        affine = torch.diag(torch.tensor([-2.0 if flip else 2.0, 2, 2, 1], dtype=torch.float64))
        stored = MetaTensor(values.flip(1) if flip else values, affine=affine)
        ready = ResampleToNetworkGridd("image", (4.0, 4.0, 4.0))({"image": stored})
        out = AddCoordinateChannelsd("image")(ready)["image"]
        assert out.shape == (4, 10, 12, 8) and "network_grid" in out.meta
        assert torch.equal(out.affine, ready["image"].affine)
        assert bool((out[1, 1:] > out[1, :-1]).all())
        places.append(out.as_tensor())
    assert torch.allclose(places[0], places[1], atol=1e-5)


def test_training_gives_the_network_the_channels_that_use_gives_it():
    ids = torch.zeros((20, 20, 20), dtype=torch.int16)
    ids[4:16, 4:16, 4:16] = 2
    synthesis = Synthesis(size=(16, 16, 16), spacing_mm=(1.5, 1.5, 1.5))
    sampler = SyntheticSampler(
        [LabelMap("m", ids, (1.0, 1.0, 1.0))], SyntheticSettings(synthesis, ((2, 1),), place=True), 0
    )
    image, classes = sampler.draw()
    assert image.shape == (4, 16, 16, 16) and classes.shape == (1, 16, 16, 16)
    affine = torch.diag(torch.tensor([1.5, 1.5, 1.5, 1.0], dtype=torch.float64))
    used = AddCoordinateChannelsd("image")({"image": MetaTensor(image[:1], affine=affine)})["image"]
    assert np.allclose(used.numpy(), image.numpy(), atol=1e-6)
