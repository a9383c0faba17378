"""MR at a lower resolution: k-space cuts, slice profiles, and noise of the given size."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medvit.physics.degradations.low_resolution_mr import LowResolutionMR

# --- low-resolution MR


def _wave(n: int, cycles: int, side: float) -> np.ndarray:
    return 2 + np.cos(2 * np.pi * cycles * np.arange(n) / n + 0.4)


def test_a_wave_below_the_cut_stays_and_one_above_it_goes():
    n, side = 60, 1.0  # 3 mm voxels keep up to 1/6 cycle per mm: 10 cycles over 60 mm
    for cycles, kept in ((9, 1.0), (10, 1.0), (11, 0.0), (25, 0.0)):
        image = np.repeat(_wave(n, cycles, side)[:, None], 8, 1)
        found = LowResolutionMR(voxel_mm=(3.0, None))(image, (side, 1.0))
        assert np.allclose(found, 2 + kept * (image - 2), atol=1e-5), cycles


def test_leaving_every_axis_gives_the_image_back(rng):
    image = rng.random((9, 8, 7))
    assert np.allclose(LowResolutionMR(voxel_mm=(None, None, None))(image, (1, 2, 3)), image, atol=1e-6)
    assert np.allclose(LowResolutionMR(voxel_mm=(1.0, 2.0, 3.0), slice_axis=2)(image, (1, 2, 3)), image, atol=1e-6)


@pytest.mark.parametrize("profile", ["box", "gaussian"])
def test_thick_slices_average_what_they_cover(profile):
    ramp = np.broadcast_to(np.arange(40.0), (4, 3, 40))
    found = LowResolutionMR(voxel_mm=(None, None, 5.0), slice_axis=2, profile=profile)(ramp, (1.0, 1.0, 1.0))
    assert np.allclose(found[..., 12:-12], ramp[..., 12:-12], atol=1e-3)  # a straight line survives averaging
    flat = LowResolutionMR(voxel_mm=(None, None, 5.0), slice_axis=2, profile=profile)(
        np.full((4, 3, 40), 7.0), (1.0, 1.0, 1.0)
    )
    assert np.allclose(flat, 7, atol=1e-5)


def test_a_box_profile_is_the_mean_over_whole_voxels():
    line = np.zeros((1, 1, 12))
    line[..., 5] = 9.0
    found = LowResolutionMR(voxel_mm=(None, None, 3.0), slice_axis=2, profile="box")(line, (1.0, 1.0, 1.0))
    assert found[0, 0, 4] == pytest.approx(3.0)  # slice of voxels 3, 4 and 5


def test_rician_noise_has_the_asked_for_size():
    bright = LowResolutionMR(voxel_mm=(2.0, 2.0), noise=5.0)(np.full((128, 128), 1000.0), (1.0, 1.0))
    assert bright.std() == pytest.approx(5.0, rel=0.05)
    assert bright.mean() == pytest.approx(1000.0, abs=0.3)
    dark = LowResolutionMR(voxel_mm=(2.0, 2.0), noise=5.0)(np.zeros((128, 128)), (1.0, 1.0))
    assert dark.mean() == pytest.approx(5.0 * np.sqrt(np.pi / 2), rel=0.05)  # Rayleigh


def test_mr_is_deterministic_for_a_seed(rng):
    image = rng.random((12, 10, 8))
    one = LowResolutionMR(voxel_mm=(2.0, None, 3.0), slice_axis=2, noise=0.1, seed=3)
    assert np.array_equal(one(image, (1, 1, 1)), one(image, (1, 1, 1)))
    assert not np.array_equal(one(image, (1, 1, 1)), replace(one, seed=4)(image, (1, 1, 1)))
