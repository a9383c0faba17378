"""CT at a lower dose: closed forms, the limit without noise, and statistics that follow the numbers of photons."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medvit.physics.degradations import LowDoseCT, ParallelBeam
from medvit.physics.degradations.low_dose_ct import MU_WATER_PER_MM, attenuation_from_hu, hu_from_attenuation
from tests.physics.degradations.bodies import disk_image

# --- low-dose CT


def _water(shape: tuple[int, int] = (96, 96), spacing: tuple[float, float] = (2.0, 2.0)) -> np.ndarray:
    return hu_from_attenuation(disk_image(shape, spacing, 80.0) * MU_WATER_PER_MM)


def _inner(shape: tuple[int, int] = (96, 96)) -> np.ndarray:
    return disk_image(shape, (2.0, 2.0), 40.0) == 1


QUIET = LowDoseCT(electronic_noise=0.0, beam=ParallelBeam(120))


def test_hounsfield_units_and_attenuation_are_each_others_inverse():
    hu = np.array([-1000, -100, 0, 40, 3000], np.float32)
    mu = attenuation_from_hu(hu)
    assert mu[0] == 0
    assert mu[2] == pytest.approx(MU_WATER_PER_MM)
    assert np.allclose(hu_from_attenuation(mu), hu, atol=1e-3)
    assert attenuation_from_hu(np.array([-3024.0], np.float32))[0] == 0


def test_endless_photons_reproduce_the_input():
    found = replace(QUIET, photons_per_ray=1e16)(_water(), (2.0, 2.0))
    assert np.abs(found - _water()).max() < 0.5


def test_noise_variance_is_inverse_to_the_photons_and_the_mean_stays():
    image, inner = _water(), _inner()
    volume = np.repeat(image[..., None], 12, 2)
    spread = {}
    for dose in (1.0, 0.25):
        added = (replace(QUIET, photons_per_ray=4e5).at_dose(dose)(volume, (2.0, 2.0, 3.0)) - volume)[inner]
        spread[dose] = added.var()
        assert abs(added.mean()) < 4 * added.std() / np.sqrt(12)  # noise of one slice is correlated, slices are not
    assert spread[0.25] / spread[1.0] == pytest.approx(4.0, rel=0.1)


def test_counts_are_poisson_around_beer_lambert():
    lines = np.full((1, 200, 301), 2.0, np.float32)
    noise = replace(QUIET, photons_per_ray=1e5)._noise(lines, 0)
    counts = 1e5 * np.exp(-(noise + lines.astype(np.float64)))
    expected = 1e5 * np.exp(-2)
    assert counts.mean() == pytest.approx(expected, rel=1e-3)
    assert counts.var() / expected == pytest.approx(1.0, rel=0.03)


def test_electronic_noise_adds_its_variance_in_photons():
    lines = np.zeros((1, 200, 301), np.float32)
    noise = replace(QUIET, photons_per_ray=1e4, electronic_noise=150.0)._noise(lines, 0)
    counts = 1e4 * np.exp(-noise.astype(np.float64))
    assert counts.var() == pytest.approx(1e4 + 150**2, rel=0.03)


def test_a_bow_tie_takes_photons_from_the_rim_alone():
    expected = replace(QUIET, bowtie=1.5).expected_photons(np.zeros((1, 1, 101), np.float32))[0, 0]
    assert expected[50] == pytest.approx(1e5)
    assert expected[0] == pytest.approx(1e5 * np.exp(-1.5))
    assert np.allclose(expected, expected[::-1])


def test_a_noisy_blank_scan_is_the_same_in_every_view():
    lines = np.zeros((2, 50, 101), np.float32)
    dose = replace(QUIET, photons_per_ray=1e4, blank_scans=1)
    mean = dose._noise(lines, 0).mean((0, 1))
    assert mean.std() == pytest.approx(1e-2, rel=0.3)  # 1 / sqrt(1e4) for each bin, views only average the rest out
    assert replace(dose, blank_scans=10_000)._noise(lines, 0).mean((0, 1)).std() < 2e-3


def test_starved_rays_stay_finite():
    steel = np.where(disk_image((48, 48), (4.0, 4.0), 60.0) > 0.5, 20_000.0, -1000.0)
    found = LowDoseCT(photons_per_ray=100.0, beam=ParallelBeam(30))(steel, (4.0, 4.0))
    assert np.isfinite(found).all()


def test_same_seed_same_noise_whatever_else_is_in_the_volume():
    volume = np.repeat(_water((40, 44), (4.0, 4.0))[..., None], 18, 2)
    dose = replace(QUIET, beam=ParallelBeam(20))
    first, second = dose(volume, (4.0, 4.0, 3.0)), dose(volume, (4.0, 4.0, 3.0))
    assert np.array_equal(first, second)
    assert np.array_equal(first[..., :3], dose(volume[..., :3], (4.0, 4.0, 3.0)))
    assert np.array_equal(first[..., 0], dose(volume[..., 0], (4.0, 4.0)))
    assert not np.array_equal(first[..., 0], first[..., 1])
    assert not np.array_equal(first, dose.at_dose(1.0, seed=1)(volume, (4.0, 4.0, 3.0)))


def test_ten_percent_dose_is_a_tenth_of_the_photons():
    assert LowDoseCT(photons_per_ray=2e5).at_dose(0.1) == LowDoseCT(photons_per_ray=2e4)


def test_input_is_not_touched():
    image = _water((40, 40))
    before = image.copy()
    replace(QUIET, beam=ParallelBeam(8))(image, (2.0, 2.0))
    assert np.array_equal(image, before)


def test_a_real_ct_slice(shared):
    import nibabel as nib

    ct = nib.load(shared / "data" / "ct_headneck_openkbp" / "pt_4_ct.nii.gz")
    section = ct.get_fdata(dtype=np.float32)[..., 60]
    sides = tuple(float(s) for s in ct.header.get_zooms()[:2])
    tenth = LowDoseCT(beam=ParallelBeam(180)).at_dose(0.1)(section, sides)
    body = section > -200
    added = (tenth - section)[body]
    assert abs(added.mean()) < 5
    assert 5 < added.std() < 300
