"""The physics holds: closed forms, limits without noise, and statistics that follow the numbers given."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from medvit.errors import ImageError, ShapeError
from medvit.physics import zero_fill
from medvit.physics.degradations import LowDoseCT, ParallelBeam, TruncatedMR
from medvit.physics.degradations.low_count_pet import LowCountPET
from medvit.physics.degradations.low_dose_ct import MU_WATER_PER_MM, attenuation_from_hu, hu_from_attenuation
from medvit.physics.degradations.low_resolution_mr import LowResolutionMR
from medvit.physics.kspace import truncate_kspace


def _disk(shape: tuple[int, int], spacing: tuple[float, float], radius: float, centre=(0.0, 0.0)) -> np.ndarray:
    """A disk of ones with soft rims: each pixel holds the share of it that the disk covers (8 x 8 points)."""
    total = np.zeros(shape, np.float32)
    for a in (np.arange(8) + 0.5) / 8 - 0.5:
        for b in (np.arange(8) + 0.5) / 8 - 0.5:
            x = (np.arange(shape[0]) - (shape[0] - 1) / 2 + a) * spacing[0] - centre[0]
            y = (np.arange(shape[1]) - (shape[1] - 1) / 2 + b) * spacing[1] - centre[1]
            total += np.hypot(x[:, None], y) <= radius
    return total / 64


# --- the projector


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.8, 1.3)], ids=["square", "oblong pixels"])
def test_line_integrals_of_an_off_centre_disk_are_its_chords(spacing):
    beam, shape, radius, centre = ParallelBeam(24), (121, 95), 30.0, (7.0, -9.0)
    disk = torch.from_numpy(_disk(shape, spacing, radius, centre) * MU_WATER_PER_MM)
    lines = beam.project(disk[None], spacing)[0].numpy()
    step = beam.bin_mm(spacing)
    place = (np.arange(lines.shape[1]) - (lines.shape[1] - 1) / 2) * step
    for view, found in enumerate(lines):
        angle = view * np.pi / 24
        offset = place - (centre[0] * np.cos(angle) + centre[1] * np.sin(angle))
        chord = 2 * np.sqrt(np.maximum(radius**2 - offset**2, 0)) * MU_WATER_PER_MM
        inside = np.abs(np.abs(offset) - radius) > 1.5 * max(spacing)  # the chord is steep at the rim
        assert np.abs(found - chord)[inside].max() < 0.012 * chord.max(), view


def test_projection_is_linear_and_keeps_the_total():
    beam, spacing = ParallelBeam(12), (1.0, 1.0)
    g = torch.Generator().manual_seed(0)
    a, b = (torch.from_numpy(_disk((64, 64), spacing, 20.0)) * torch.rand(64, 64, generator=g) for _ in range(2))
    pa, pb, both = (beam.project(x[None], spacing) for x in (a, b, 2 * a + b))
    assert torch.allclose(both, 2 * pa + pb, atol=1e-4)
    # every view holds all of the mass
    assert torch.allclose(pa.sum(2) * beam.bin_mm(spacing), a.sum().expand(1, 12), rtol=0.01)


@pytest.mark.parametrize(("kernel", "limit"), [("ramp", 0.01), ("hann", 0.01)])
def test_back_projection_gives_the_disk_back(kernel, limit):
    spacing, radius = (0.9, 1.1), 35.0
    disk = _disk((101, 91), spacing, radius)
    beam = ParallelBeam(240, kernel)
    found = beam.reconstruct(beam.project(torch.from_numpy(disk[None]), spacing), disk.shape, spacing)[0].numpy()
    inner = _disk((101, 91), spacing, radius - 6) == 1
    assert abs(found[inner].mean() - 1) < 0.003
    assert np.abs(found[inner] - 1).max() < 3 * limit
    outer = _disk((101, 91), spacing, radius + 6) == 0
    assert abs(found[outer].mean()) < limit


# --- low-dose CT


def _water(shape: tuple[int, int] = (96, 96), spacing: tuple[float, float] = (2.0, 2.0)) -> np.ndarray:
    return hu_from_attenuation(_disk(shape, spacing, 80.0) * MU_WATER_PER_MM)


def _inner(shape: tuple[int, int] = (96, 96)) -> np.ndarray:
    return _disk(shape, (2.0, 2.0), 40.0) == 1


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
    steel = np.where(_disk((48, 48), (4.0, 4.0), 60.0) > 0.5, 20_000.0, -1000.0)
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


# --- low-count PET


def _activity(slices: int = 4) -> np.ndarray:
    disk = _disk((64, 64), (3.0, 3.0), 70.0) + 4 * _disk((64, 64), (3.0, 3.0), 12.0, (20.0, 10.0))
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
    inside = _disk((64, 64), (3.0, 3.0), 50.0) == 1
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


# --- bad input

EVERY = [LowDoseCT(), LowCountPET(), LowResolutionMR(voxel_mm=(None, None)), TruncatedMR(1)]


@pytest.mark.parametrize("degrade", EVERY, ids=lambda d: type(d).__name__)
def test_images_that_are_none(degrade):
    good = np.ones((6, 5))
    for shape in ((6,), (1, 6, 5, 4), (0, 5)):
        with pytest.raises(ShapeError, match=re.escape(f"Found an image of shape {shape}; (i, j) or (i, j, k)")):
            degrade(np.ones(shape), (1.0, 1.0))
    for spacing in ((1.0,), (1.0, 0.0), (1.0, -2.0), (1.0, float("nan"))):
        with pytest.raises(ShapeError, match="one positive number for each is needed"):
            degrade(good, spacing)
    for bad in (float("nan"), float("inf")):
        spoiled = good.copy()
        spoiled[2, 2] = bad
        with pytest.raises(ImageError, match="values that are no finite real numbers"):
            degrade(spoiled, (1.0, 1.0))
    with pytest.raises(ImageError, match="no finite real numbers"):
        degrade(good.astype(complex), (1.0, 1.0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LowDoseCT(photons_per_ray=0.0), "photons_per_ray = 0.0; a positive number of photons is needed"),
        (lambda: LowDoseCT(photons_per_ray=float("inf")), "photons_per_ray = inf; a positive number of photons"),
        (lambda: LowDoseCT(electronic_noise=-1.0), "electronic_noise = -1.0; 0 or more photons is needed"),
        (lambda: LowDoseCT(bowtie=-0.5), "bowtie = -0.5"),
        (lambda: LowDoseCT(blank_scans=-1), "blank_scans = -1; 0 (exact) or a number of scans"),
        (lambda: LowDoseCT(least_photons=0.0), "least_photons = 0.0"),
        (lambda: LowDoseCT(mu_water_per_mm=0.0), "mu_water_per_mm = 0.0; a positive attenuation"),
        (lambda: LowDoseCT().at_dose(0.0), "fraction = 0.0; a positive share of the dose"),
        (lambda: ParallelBeam(0), "views = 0; at least 1 view"),
        (lambda: ParallelBeam(kernel="sharp"), "kernel = sharp; 'ramp' or 'hann'"),
        (lambda: LowCountPET(counts=-3.0), "counts = -3.0; a positive number of coincidences"),
        (lambda: LowCountPET(background=-0.1), "background = -0.1"),
        (lambda: LowCountPET().at_counts(-1.0), "fraction = -1.0; a positive share of the counts"),
        (
            lambda: LowResolutionMR(voxel_mm=(0.0, None)),
            "voxel_mm = (0.0, None); a positive side, or None, for each axis",
        ),
        (lambda: LowResolutionMR(voxel_mm=(None, None), slice_axis=2), "slice_axis = 2; an axis or None"),
        (lambda: LowResolutionMR(voxel_mm=(None, None), profile="sinc"), "profile = sinc; 'box' or 'gaussian'"),
        (lambda: LowResolutionMR(voxel_mm=(None, None), noise=-1.0), "noise = -1.0; 0 or more"),
        (lambda: TruncatedMR(0), "factor = 0; a whole number of 1 or more"),
        (lambda: TruncatedMR(2, noise=-1.0), "noise = -1.0; 0 or more"),
    ],
)
def test_parameters_that_mean_nothing(make, message):
    with pytest.raises(ShapeError, match=re.escape(message)):
        make()


def test_mr_voxels_that_do_not_fit_the_image():
    with pytest.raises(ShapeError, match=re.escape("voxel_mm of 3 axes for an image of 2")):
        LowResolutionMR(voxel_mm=(None, None, 3.0))(np.ones((4, 4)), (1.0, 1.0))
    with pytest.raises(ShapeError, match=re.escape("finer than the image's (1.0, 1.0) mm; detail cannot be added")):
        LowResolutionMR(voxel_mm=(0.5, None))(np.ones((4, 4)), (1.0, 1.0))
    with pytest.raises(ImageError, match="a magnitude image has none below 0"):
        LowResolutionMR(voxel_mm=(None, None), noise=1.0)(-np.ones((4, 4)), (1.0, 1.0))
    with pytest.raises(ImageError, match="a magnitude image has none below 0"):
        TruncatedMR(2, noise=1.0)(-np.ones((4, 4)), (1.0, 1.0))
    with pytest.raises(ShapeError, match="slices of 4 x 5 pixels to make 2 times coarser"):
        TruncatedMR(2)(np.ones((4, 5)), (1.0, 1.0))


def test_pet_without_activity_or_with_negative_values():
    for image in (np.zeros((8, 8)), np.full((8, 8), -1.0)):
        with pytest.raises(ImageError, match="0 or more, and some above 0, are needed"):
            LowCountPET()(image, (1.0, 1.0))
