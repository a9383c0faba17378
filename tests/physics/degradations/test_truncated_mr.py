"""MR on a truncated k-space: the grid of wider voxels, with and without noise."""

from __future__ import annotations

import numpy as np
import pytest

from medvit.physics import zero_fill
from medvit.physics.degradations import TruncatedMR
from medvit.physics.degradations.low_resolution_mr import LowResolutionMR
from medvit.physics.kspace import truncate_kspace


def test_truncation_keeps_the_middle_of_k_space_as_wider_voxels_would(rng):
    image = rng.random((24, 18, 3))
    degrade = TruncatedMR(2)
    assert np.array_equal(degrade.coarse(image, (1, 1, 3)), truncate_kspace(image.astype(np.float32), 2))
    found = degrade(image, (1, 1, 3))
    assert np.array_equal(found, zero_fill(degrade.coarse(image, (1, 1, 3)), 2)) and found.shape == image.shape
    # 18 / 2 is odd and has no line at Nyquist: along that axis both classes cut alike; of 24 / 2 one line is left out
    same = TruncatedMR(2)(image[:18], (1, 1, 3))
    assert np.allclose(same, LowResolutionMR(voxel_mm=(2.0, 2.0, None))(image[:18], (1, 1, 3)), atol=1e-5)
    assert np.allclose(degrade.with_factor(1)(image, (1, 1, 3)), image, atol=1e-6)


def test_truncation_with_noise_is_rician_on_the_coarse_grid_and_deterministic():
    degrade = TruncatedMR(2, noise=5.0, seed=4)
    bright = degrade.coarse(np.full((256, 256), 1000.0), (1.0, 1.0))
    assert bright.std() == pytest.approx(5.0, rel=0.05) and bright.mean() == pytest.approx(1000.0, abs=0.3)
    dark = degrade.coarse(np.zeros((256, 256)), (1.0, 1.0))
    assert dark.min() >= 0 and dark.mean() == pytest.approx(5.0 * np.sqrt(np.pi / 2), rel=0.05)
    stack = np.full((16, 16, 2), 100.0)
    assert np.array_equal(degrade(stack, (1, 1, 1)), degrade(stack, (1, 1, 1)))
    two = degrade.coarse(stack, (1, 1, 1))
    assert not np.array_equal(two[..., 0], two[..., 1])
    assert not np.array_equal(two, degrade.with_factor(2, seed=5).coarse(stack, (1, 1, 1)))
