"""Pairs are what the physics says; a short run learns, resumes and publishes; wrong lists are named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from medvit.bundles import load_weights, open_bundle
from medvit.errors import BundleError, ShapeError, SourceError
from medvit.restoration import RestoreRWKV
from medvit.restoration.degradations import LowDoseCT, ParallelBeam
from medvit.training import LoopSettings, TrainingLoop
from medvit.training.data import DataList
from medvit.training.objectives import RestorationObjective
from medvit.training.restoration import (
    PairSampler,
    PairSettings,
    Slices,
    read_images,
)
from medvit.training.trainer import TrainSettings, train_bundle

ROOT = Path(__file__).resolve().parents[2]
RANGE = (-1024.0, 3072.0)


def _case(shape=(20, 16, 3)) -> Slices:
    rng = np.random.default_rng(0)
    return Slices("case", rng.normal(40, 10, shape).astype(np.float32), (2.0, 2.0, 3.0))


def _pairs(**changes) -> PairSettings:
    scanner = LowDoseCT(beam=ParallelBeam(12))
    return PairSettings(**{"intensity_range": RANGE, "scanner": scanner, "crop": (16, 16), **changes})


def _loop(folder: Path, loss: str) -> TrainingLoop:
    torch.manual_seed(0)
    objective = RestorationObjective(RestoreRWKV(dim=4, num_blocks=(1, 1, 1, 1), num_refinement_blocks=1), loss)
    sampler = PairSampler([_case()], _pairs(), 0)
    return TrainingLoop(objective, sampler, LoopSettings(steps=4, cooldown_steps=1, checkpoint_every=2), folder)


def test_pairs_lie_on_each_other_and_only_noise_differs():
    degraded, clean = PairSampler([_case()], _pairs(), 0).batch(3)
    assert degraded.shape == clean.shape == (3, 1, 16, 16)
    assert float(degraded.min()) >= 0 and float(degraded.max()) <= 1
    assert not torch.equal(degraded, clean)
    quiet = LowDoseCT(photons_per_ray=1e15, electronic_noise=0.0, beam=ParallelBeam(12))
    same = PairSampler([_case()], _pairs(scanner=quiet), 0).batch(3)
    assert torch.allclose(same[0], same[1], atol=1e-4)


def test_small_slices_are_padded_with_air():
    _, clean = PairSampler([_case((9, 20, 2))], _pairs(), 0).draw()
    assert clean.shape == (1, 16, 16)
    assert (clean == 0).sum() >= 7 * 16


def test_pairs_are_the_same_for_a_seed():
    one, two = (PairSampler([_case()], _pairs(), 3).batch(2) for _ in range(2))
    assert torch.equal(one[0], two[0]) and torch.equal(one[1], two[1])
    sampler = PairSampler([_case()], _pairs(), 0)
    sampler.reseed(3)
    assert torch.equal(sampler.batch(2)[0], one[0])


@pytest.mark.parametrize("loss", ["l1", "charbonnier", "l1+ssim"])
def test_the_loop_runs_resumes_and_gives_true_fused_kernels(loss, tmp_path):
    average = _loop(tmp_path, loss).run()
    network = RestoreRWKV(dim=4, num_blocks=(1, 1, 1, 1), num_refinement_blocks=1)
    network.load_state_dict(average)
    assert all(torch.allclose(s.conv5x5_reparam.weight, s.kernel()) for s in network.shifts())
    again = _loop(tmp_path, loss)
    again.resume()
    assert again.step == 4


def test_medvit_train_runs_the_bundles_recipe_and_publishes(tmp_path, monkeypatch):
    folder = tmp_path / "ct_denoise"
    shutil.copytree(ROOT / "bundles" / "ct_denoise_restore_rwkv", folder)
    config = json.loads((folder / "configs" / "inference.json").read_text())
    config["network_def"].update(dim=4, num_blocks=[1, 1, 1, 1])
    (folder / "configs" / "inference.json").write_text(json.dumps(config))
    train = json.loads((folder / "configs" / "train.json").read_text())
    train["draws"]["crop"] = [16, 16]
    train["loop"].update(batch_size=1, validate_every=0)
    train["scanner"]["beam"]["views"] = 8
    (folder / "configs" / "train.json").write_text(json.dumps(train))
    nib.save(nib.Nifti1Image(_case().image, np.diag([2.0, 2.0, 3.0, 1.0])), tmp_path / "a.nii.gz")
    listed = tmp_path / "list.json"
    listed.write_text(json.dumps({"training": [{"image": "a.nii.gz"}], "validation": []}))
    settings = TrainSettings(DataList(listed, tmp_path), tmp_path / "runs", steps=3, publish=True)
    assert train_bundle(open_bundle(folder), settings).is_file()
    trained = open_bundle(folder)
    assert trained.facts.state == "trained"
    trained.verify()
    load_weights(RestoreRWKV(dim=4, num_blocks=(1, 1, 1, 1), num_refinement_blocks=1), trained.weights)


def test_wrong_lists_are_named(tmp_path):
    bundle = open_bundle(ROOT / "bundles" / "ct_denoise_restore_rwkv")
    listed = tmp_path / "list.json"

    def read(content: object) -> list[Slices]:
        listed.write_text(content if isinstance(content, str) else json.dumps(content))
        return read_images(bundle, listed, tmp_path, "training")

    for broken in ("{", {"training": [{"label": "a"}]}, {"training": ["a"]}):
        with pytest.raises(
            SourceError,
            match="no readable data list at|an entry without 'image' in .*Give a list whose entries have it",
        ):
            read(broken)
    with pytest.raises(SourceError, match="no 'training' entries in .*Its parts: validation"):
        read({"validation": [{"image": "a"}]})
    with pytest.raises(SourceError, match="a case may train or judge, not both"):
        read({"training": [{"image": "a"}], "validation": [{"image": "a"}]})
    with pytest.raises(SourceError, match="every file of the list is needed. Set --root"):
        read({"training": [{"image": "absent.nii.gz"}]})


def test_wrong_recipes_are_named():
    with pytest.raises(BundleError, match="the loss 'l2'; it must be one of l1, charbonnier, l1"):
        RestorationObjective(RestoreRWKV(dim=4, num_blocks=(1, 1, 1, 1), num_refinement_blocks=1), "l2")
    for changes in ({"dose": (0.0, 1.0)}, {"dose": (0.5, 0.1)}, {"crop": (0, 8)}):
        with pytest.raises(
            ShapeError, match="positive doses in order, a crop of at least a pixel and a volume are needed"
        ):
            PairSampler([_case()], _pairs(**changes), 0)
    with pytest.raises(ShapeError, match="and 0 volumes"):
        PairSampler([], _pairs(), 0)
