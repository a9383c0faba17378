"""Synthetic images show the labels they come from, whatever is drawn; sides stay sides; streams repeat; bad maps are named."""

from __future__ import annotations

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch

from medvit.bundles import open_bundle
from medvit.errors import BundleError, ShapeError, SourceError
from medvit.training.data import DataList
from medvit.training.synthesis import Brightness, Pose, ScannerArtifacts, Synthesis, SyntheticSampler, SyntheticSettings
from medvit.training.synthesis.artifacts import add_ghosts, add_rician_noise, blur, thicken_slices
from medvit.training.synthesis.deformation import flipped_ids, smooth_field
from medvit.training.synthesis.sampler import read_map
from tests.bands import DEFAULT

STILL = Pose(rotation_deg=0.0, scale=(1.0, 1.0), shift_mm=0.0, elastic_mm=0.0, flip=0.0, pairs=((2, 3),))
PERFECT = ScannerArtifacts(slice_mm=(1.0, 1.0), thick=0.0, plane_mm=(1.0, 1.0), motion=0.0, noise=0.0)
PLAIN = Brightness(spread=(0.0, 0.0), dark_background=1.0, blur_mm=(0.0, 0.0), bias=0.0, gamma=0.0)


def _head() -> torch.Tensor:
    """A body (1) with a right (2, larger) and a left (3) part, and a nose (4) in front; (i, j, k) on RAS axes."""
    ids = torch.zeros((40, 44, 36), dtype=torch.int16)
    ids[6:34, 6:36, 4:32] = 1
    ids[22:32, 12:26, 10:26] = 2  # the patient's right has the higher index
    ids[9:17, 12:24, 10:22] = 3
    ids[18:22, 36:42, 14:20] = 4
    return ids


def _synthesis(**changes) -> Synthesis:
    plain = Synthesis(size=(40, 44, 36), spacing_mm=(1.0, 1.0, 1.0), pose=STILL, brightness=PLAIN, scanner=PERFECT)
    return replace(plain, **changes)


def _one(synthesis: Synthesis, seed: int = 0, ids: torch.Tensor | None = None):
    return synthesis(_head() if ids is None else ids, (1.0, 1.0, 1.0), np.random.default_rng(seed))


def test_nothing_drawn_gives_the_map_in_flat_colours():
    image, ids = _one(_synthesis())
    assert image.shape == ids.shape == (1, 40, 44, 36)
    assert image.dtype == torch.float32 and ids.dtype == torch.int64
    assert torch.equal(ids[0], _head().long())
    seen = {c: image[ids == c].unique().tolist() for c in range(5)}
    assert all(len(values) == 1 for values in seen.values())
    assert seen[0] == [0.0] and seen[2] == seen[3] and seen[1] != seen[2]
    other, _ = _one(_synthesis(), seed=1)
    assert not torch.allclose(other, image)  # another contrast


def test_a_coarser_grid_covers_the_same_head():
    _, ids = _one(_synthesis(size=(20, 22, 18), spacing_mm=(2.0, 2.0, 2.0)))
    for c in (1, 2, 3):
        assert int((ids == c).sum()) * 8 == pytest.approx(int((_head() == c).sum()), rel=0.2)


def test_a_flip_mirrors_the_head_and_keeps_right_on_the_right():
    pose = replace(STILL, flip=1.0)
    _, ids = _one(_synthesis(pose=pose))
    mirrored = _head().flip(0).long()
    assert torch.equal((ids[0] == 1) | (ids[0] == 4), (mirrored == 1) | (mirrored == 4))
    assert torch.equal(ids[0] == 3, mirrored == 2) and torch.equal(ids[0] == 2, mirrored == 3)
    for seed in range(6):  # and so it stays after any turn and bend
        _, ids = _one(_synthesis(pose=Pose(rotation_deg=20, elastic_mm=1.5, pairs=((2, 3),))), seed)
        right, left = (float((ids[0] == c).nonzero()[:, 0].double().mean()) for c in (2, 3))
        assert right > left + 5
    assert torch.equal(flipped_ids(torch.tensor([0, 2, 3, 4]), ((2, 3),)), torch.tensor([0, 3, 2, 4]))
    assert torch.equal(flipped_ids(torch.tensor([0, 1]), ()), torch.tensor([0, 1]))


def test_turns_zooms_shifts_and_bends_move_by_what_is_stated():
    _, ids = _one(_synthesis(pose=replace(STILL, scale=(0.5, 0.5))))
    assert int((ids == 1).sum()) == pytest.approx(int((_head() == 1).sum()) / 8, rel=0.15)
    middles = []
    for seed in range(12):
        _, ids = _one(_synthesis(pose=replace(STILL, shift_mm=4.0)), seed)
        middles.append(((ids[0] == 2).nonzero().double().mean(0) - (_head() == 2).nonzero().double().mean(0)).numpy())
    assert 2.5 < np.abs(middles).max() < 4.6
    _, bent = _one(_synthesis(pose=replace(STILL, elastic_mm=3.0, elastic_grid_mm=10.0)))
    assert 0 < int((bent[0] != _head()).sum()) < _head().numel() / 2
    field = smooth_field(3, 2, (5, 5, 5), torch.Generator().manual_seed(0))
    assert torch.allclose(field[:, 2, 2, 2], field[:, ::4, ::4, ::4].mean((1, 2, 3)), atol=1e-6)


def test_image_and_labels_stay_together_under_everything_at_once():
    """The two parts of a pair, of one brightness, are found where their label says: inside differs from around."""
    told = 0
    for seed in range(6):
        image, ids = _one(Synthesis(size=(40, 44, 36), spacing_mm=(1.0, 1.0, 1.0), pose=Pose(pairs=((2, 3),))), seed)
        assert float(image.min()) >= 0 and float(image.max()) <= 1 and bool(image.isfinite().all())
        inside, around = image[(ids == 2) | (ids == 3)], image[ids == 1]
        told += float((inside.mean() - around.mean()).abs()) > 0.1
    assert told >= 4  # a few draws give both much the same mean


def test_a_stream_repeats_by_its_seed_and_the_global_one_is_left_alone():
    synthesis = Synthesis(size=(20, 22, 18), spacing_mm=(2.0, 2.0, 2.0))
    before = torch.get_rng_state()
    one, two, other = (_one(synthesis, seed) for seed in (3, 3, 4))
    assert torch.equal(one[0], two[0]) and torch.equal(one[1], two[1]) and not torch.equal(one[0], other[0])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_labels_of_a_gpu_are_made_there():
    image, ids = _one(_synthesis(), ids=_head().cuda())
    assert image.is_cuda and torch.equal(ids.cpu(), _one(_synthesis())[1])


def test_the_scanner_does_what_its_words_say():
    rng, noise = np.random.default_rng(0), torch.Generator().manual_seed(0)
    point = torch.zeros(31, 31, 31)
    point[15, 15, 15] = 1
    wide = blur(point, (2.0, 0.0, 0.0))
    at = torch.arange(31.0) - 15
    assert float((wide[:, 15, 15] * at**2).sum()) == pytest.approx(4, rel=0.02)
    assert float(wide.sum()) == pytest.approx(1, rel=1e-5) and float(wide[:, 14].sum()) == 0
    thick = thicken_slices(point, 2, 5.0)
    profile = thick[15, 15]
    assert float(thick[14].sum()) == 0 and int((profile > profile.max() / 2).sum()) in range(
        5, 12
    )  # split where it lies between two
    assert torch.equal(thicken_slices(point, 1, 1.0), point)
    ramp = torch.arange(31.0).expand(31, 31, 31)
    assert torch.allclose(thicken_slices(ramp, 2, 4.0)[..., 6:-6], ramp[..., 6:-6], atol=0.3)  # in place, not shifted
    still = add_ghosts(_head().float(), np.zeros(3), rng)
    assert torch.allclose(still, _head().float(), atol=1e-4)
    moved = add_ghosts(_head().float(), np.array([3.0, 0.0, 0.0]), rng)
    assert float((moved - _head().float()).abs().max()) > 0.3
    assert float(moved[:, :, :].mean()) == pytest.approx(float(_head().float().mean()), rel=0.2)
    dark = add_rician_noise(torch.zeros(20, 20, 20), 0.1, noise)
    assert float(dark.mean()) == pytest.approx(0.1 * np.sqrt(np.pi / 2), rel=0.03)  # Rayleigh where there is no signal
    assert torch.equal(add_rician_noise(point, 0.0, noise), point)


def test_a_stripped_head_is_black_outside_of_the_brain():
    rims = set()
    for seed in range(8):
        image, ids = _one(_synthesis(brightness=replace(PLAIN, bare=1.0, outside=(1, 900), rim=(4,))), seed)
        assert float(image[ids <= 1].max()) == 0 and float(image[ids == 2].min()) > 0
        rims.add(bool(image[ids == 4].max() > 0))
        whole, _ = _one(_synthesis(), seed)
        assert float(whole[ids == 1].max()) > 0 or float(whole[ids == 2].min()) == 0
    assert rims == {True, False}  # what lies at the surface is there or not


def _listed(tmp_path, ids: np.ndarray) -> DataList:
    nib.save(nib.Nifti1Image(ids, np.diag([-1.0, -1.0, 1.0, 1.0])), tmp_path / "head.nii.gz")
    (tmp_path / "list.json").write_text(json.dumps({"training": [{"image": "head.nii.gz"}], "validation": []}))
    return DataList(tmp_path / "list.json", tmp_path)


def test_a_recipe_draws_classes_from_stored_maps(tmp_path):
    bundle = open_bundle(DEFAULT)
    data = _listed(tmp_path, _head().flip(0, 1).numpy())  # stored with both axes reversed
    settings = SyntheticSettings(_synthesis(), ((2, 1), (3, 1), (4, 5)))
    sampler = settings.sampler(bundle, data, 0)
    assert torch.equal(sampler.maps[0].ids, _head())
    sampler.reseed((0, 1))
    images, classes = sampler.batch(2)
    assert images.shape == classes.shape == (2, 1, 40, 44, 36)
    wanted = torch.where((_head() == 2) | (_head() == 3), 1, torch.where(_head() == 4, 5, 0))
    assert torch.equal(classes[0, 0], wanted.long())
    with pytest.raises(ShapeError, match=r"targets of class \[99\]; headneck_ct_swin_unetr has labels 0\.\.7"):
        SyntheticSettings(_synthesis(), ((2, 99),)).sampler(bundle, data, 0)
    with pytest.raises(ShapeError, match="targets of class none"):
        SyntheticSettings(_synthesis(), ()).sampler(bundle, data, 0)
    assert isinstance(SyntheticSampler(sampler.maps, settings, 0).draw()[0], torch.Tensor)


def test_maps_and_ranges_that_cannot_be_used(tmp_path):
    for wrong, words in (
        (0.5, "not whole numbers"),
        (-1, "label -1 in head"),
        (40000, "label 40000 in head; a label map"),
    ):
        ids = _head().numpy().astype(np.float32)
        ids[3, 3, 3] = wrong
        _listed(tmp_path, ids)
        with pytest.raises(SourceError, match=words):
            read_map(tmp_path / "head.nii.gz")
    for ids in (_head()[0], _head().float(), -_head()):
        with pytest.raises(ShapeError, match="whole numbers from 0 on are needed"):
            _one(_synthesis(), ids=ids)
    for make, words in (
        (lambda: Pose(scale=(1.2, 0.8)), "scale = .*the first number must not be above the second"),
        (lambda: Pose(elastic_grid_mm=0), "elastic_grid_mm = 0; it must be greater than 0"),
        (lambda: Brightness(spread=(-0.1, 0.1)), "spread.0 = -0.1; it must be greater than or equal to 0"),
        (lambda: Brightness(bias=-1), "bias = -1; it must be greater than or equal to 0"),
        (
            lambda: ScannerArtifacts(slice_mm=(0, 3)),
            "slice_mm.0 = 0; it must be greater than 0. Correct the config of the bundle",
        ),
    ):
        with pytest.raises(BundleError, match=words):
            make()


def test_real_label_maps_keep_left_and_right(shared):
    source = read_map(shared / "data" / "brain_labels" / "synthseg_training_seg_01.nii.gz")
    synthesis = Synthesis(size=(64, 64, 64), spacing_mm=(3.0, 3.0, 3.0), pose=Pose(pairs=((2, 41), (3, 42))))
    for seed in range(2):
        image, ids = synthesis(source.ids, source.spacing_mm, np.random.default_rng(seed))
        left, right = (float((ids[0] == c).nonzero()[:, 0].double().mean()) for c in (2, 41))
        assert left < right - 5  # RAS: the index grows towards the right
        assert float(image.std()) > 0.05
