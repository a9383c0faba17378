"""Images and parameters that no degradation takes: each is refused by name."""

from __future__ import annotations

import re

import numpy as np
import pytest

from medvit.errors import ImageError, ShapeError
from medvit.physics.degradations import LowDoseCT, ParallelBeam, TruncatedMR
from medvit.physics.degradations.low_count_pet import LowCountPET
from medvit.physics.degradations.low_resolution_mr import LowResolutionMR

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
        with pytest.raises(ImageError, match="values that are not finite real numbers"):
            degrade(spoiled, (1.0, 1.0))
    with pytest.raises(ImageError, match="not finite real numbers"):
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
    with pytest.raises(ImageError, match="a magnitude image has no values below 0"):
        LowResolutionMR(voxel_mm=(None, None), noise=1.0)(-np.ones((4, 4)), (1.0, 1.0))
    with pytest.raises(ImageError, match="a magnitude image has no values below 0"):
        TruncatedMR(2, noise=1.0)(-np.ones((4, 4)), (1.0, 1.0))
    with pytest.raises(ShapeError, match="slices of 4 x 5 pixels to make 2 times coarser"):
        TruncatedMR(2)(np.ones((4, 5)), (1.0, 1.0))


def test_pet_without_activity_or_with_negative_values():
    for image in (np.zeros((8, 8)), np.full((8, 8), -1.0)):
        with pytest.raises(ImageError, match="0 or more, and some above 0, are needed"):
            LowCountPET()(image, (1.0, 1.0))
