"""Patches that fit their labels, and cases from which none can be drawn."""

from __future__ import annotations

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch

from medvit.bundles import open_bundle
from medvit.errors import SourceError
from medvit.training import (
    PatchSampler,
    PatchSettings,
    TrainingCase,
)
from medvit.training.data import read_list
from medvit.training.data.patches import load_case
from tests.bands import phantom

SETTINGS = PatchSettings(
    roi_size=(32, 32, 32), spacing_mm=(2.0, 2.0, 2.0), intensity_range=(-200.0, 300.0), swap_on_flip=((3, 4),)
)


def phantom_case() -> TrainingCase:
    values, labels = phantom()
    return TrainingCase.build("phantom", values, labels, (2.0, 2.0, 2.0))


def test_patches_keep_image_and_labels_together():
    """Labels stand where the brightness they were made from stands, after any turn, zoom and flip."""
    plain = PatchSettings(roi_size=(32, 32, 32), spacing_mm=(2.0, 2.0, 2.0), intensity_range=(-200.0, 300.0))
    sampler = PatchSampler([phantom_case()], plain, seed=0)
    agreement = []
    for _ in range(8):
        image, labels = sampler.draw()
        assert image.shape == labels.shape == (1, 32, 32, 32)
        assert 0 <= float(image.min()) <= float(image.max()) <= 1
        for c in (3, 6, 7):
            inside = labels == c
            if inside.sum() > 200:
                agreement.append(abs(float(image[inside].median()) - c / 8))
    assert agreement
    assert np.median(agreement) < 0.1


def test_brightness_without_a_unit_is_scaled_by_percentiles():
    """Each image's own percentiles become 0 and 1, as MONAI's transform in inference.json makes them."""
    from monai.transforms import ScaleIntensityRangePercentiles

    case = phantom_case()
    settings = replace(SETTINGS, intensity_range=(0.0, 1.0), percentiles=(1.0, 99.0), jitter=(0.0, 0.0))
    theirs = ScaleIntensityRangePercentiles(1.0, 99.0, 0.0, 1.0)(case.image[None])[0]
    assert torch.allclose(settings.scaled(case).image, torch.as_tensor(theirs), atol=1e-4)
    brighter = replace(case, image=case.image * 7 + 300)
    one, other = (PatchSampler([settings.scaled(c)], settings, 0).draw()[0] for c in (case, brighter))
    assert torch.allclose(one, other, atol=1e-4)
    assert settings.scaled(case).image is not case.image and SETTINGS.scaled(case) is case
    with pytest.raises(SourceError, match="the same value 5 at percentiles 1 and 99; an image with contrast is needed"):
        settings.scaled(replace(case, image=torch.full_like(case.image, 5)))


def test_reach_is_how_far_a_patch_lies_from_its_organ():
    near, far = (replace(SETTINGS, organ_fraction=1.0, reach=reach) for reach in (0.0, 0.5))
    case = phantom_case()
    marked = {tuple(v) for voxels in case.voxels.values() for v in voxels}
    for settings, all_on in ((near, True), (far, False)):
        sampler = PatchSampler([case], settings, seed=0)
        centres = [tuple(np.round(sampler._pick()[1]).astype(int)) for _ in range(40)]
        assert all(c in marked for c in centres) == all_on


def test_every_class_is_drawn_about_equally_often():
    sampler = PatchSampler(
        [phantom_case()],
        PatchSettings(
            roi_size=(8, 8, 8), spacing_mm=(2.0, 2.0, 2.0), intensity_range=(-200.0, 300.0), organ_fraction=1.0
        ),
        seed=0,
    )
    seen = np.zeros(8)
    for _ in range(150):
        seen[np.unique(sampler.draw()[1])] += 1
    assert seen[1:].min() > 0.2 * seen[1:].max()


def test_a_flip_swaps_the_paired_organs():
    sampler = PatchSampler([phantom_case()], SETTINGS, seed=0)
    labels = torch.tensor([[[[0, 3, 4, 7]]]])
    assert sampler._swap(labels).flatten().tolist() == [0, 4, 3, 7]


def test_cases_that_cannot_be_used(labelled, tmp_path):
    folder, data = labelled
    (pair,) = read_list(open_bundle(folder), data, tmp_path, "training")
    with pytest.raises(SourceError, match=r"Found label 7 in s0_ct; the bundle has labels 0\.\.4"):
        load_case(pair, 5)
    ids = nib.load(pair.label)
    for spoilt, words in (
        (-1.0, r"Found label -1 in s0_ct; the bundle has labels 0\.\.7"),
        (1.5, "labels of s0_ct that are not whole numbers; ids are needed, not probabilities"),
        (np.nan, "labels of s0_ct that are not whole numbers"),
    ):
        array = np.asarray(ids.dataobj).astype(np.float32)
        array[1, 2, 3] = spoilt  # -1 would become 255, 1.5 become 1
        nib.save(nib.Nifti1Image(array, ids.affine), pair.label)
        with pytest.raises(SourceError, match=words):
            load_case(pair, 8)
    values, labels = phantom()
    empty = TrainingCase.build("empty", values, 0 * labels, (2.0, 2.0, 2.0))
    with pytest.raises(SourceError, match="background alone in the labels of all 1 cases"):
        PatchSampler([empty], SETTINGS, 0)
    found = PatchSampler([empty, phantom_case()], replace(SETTINGS, organ_fraction=1.0, reach=0.0), 0).batch(3)[1]
    assert all(bool(patch.any()) for patch in found)  # beside others it teaches background alone
    nib.save(nib.Nifti1Image(phantom()[1], np.eye(4)), pair.label)
    with pytest.raises(SourceError, match="image and labels on different grids"):
        load_case(pair, 8)
