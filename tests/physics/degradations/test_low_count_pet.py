"""PET at lower counts: the limit without noise, and statistics that follow the counts."""

from __future__ import annotations

import numpy as np
import pytest

from medvit.physics.degradations import ParallelBeam
from medvit.physics.degradations.low_count_pet import LowCountPET
from tests.physics.degradations.bodies import disk_image

# --- low-count PET


def _activity(slices: int = 4) -> np.ndarray:
    disk = disk_image((64, 64), (3.0, 3.0), 70.0) + 4 * disk_image((64, 64), (3.0, 3.0), 12.0, (20.0, 10.0))
    return np.repeat(disk[..., None], slices, 2)


def test_counts_are_those_asked_for_and_poisson():
    pet = LowCountPET(counts=2e6, background=0.5)
    expected, _ = pet.expected_counts(_activity(), (3.0, 3.0, 3.0))
    assert expected.sum() == pytest.approx(2e6, rel=1e-6)
    drawn = pet.draw(expected)
    flat = 0.5 * 2e6 / expected.size
    assert drawn.sum() == pytest.approx(2e6, abs=5 * np.sqrt(3e6))
    assert ((drawn - expected) ** 2 / (expected + flat)).mean() == pytest.approx(1.0, rel=0.03)


def test_pet_noise_variance_is_inverse_to_the_counts_and_the_mean_stays():
    image = _activity(10)
    inside = disk_image((64, 64), (3.0, 3.0), 50.0) == 1
    pet = LowCountPET(counts=4e7)
    full, quarter = ((d(image, (3.0, 3.0, 3.0)) - image)[inside] for d in (pet, pet.at_counts(0.25)))
    assert quarter.var() / full.var() == pytest.approx(4.0, rel=0.12)
    assert abs(quarter.mean()) < 0.01


def test_endless_counts_reproduce_the_pet():
    assert np.allclose(LowCountPET(counts=1e16)(_activity(1), (3.0, 3.0, 3.0)), _activity(1), atol=1e-3)


def test_pet_is_deterministic_for_a_seed():
    pet = LowCountPET(beam=ParallelBeam(20, "hann"))
    assert np.array_equal(pet(_activity(2), (3, 3, 3)), pet(_activity(2), (3, 3, 3)))
    assert not np.array_equal(pet(_activity(2), (3, 3, 3)), pet.at_counts(1.0, seed=5)(_activity(2), (3, 3, 3)))
