"""Lists without leakage, patches that fit their labels, a loop that learns, survives a kill and publishes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from medvit.bundles import open_bundle
from medvit.errors import BundleError, SourceError
from medvit.segmentation import SwinUNETR
from medvit.training import Case, LoopSettings, PatchSampler, PatchSettings, TrainingLoop
from medvit.training.data import DataList, read_list
from medvit.training.evaluation import dice, evaluate_bundle, record_scores, table
from medvit.training.losses import weighted_dice_ce
from medvit.training.objectives import OrganObjective
from medvit.training.patches import load_case
from medvit.training.publish import publish
from medvit.training.trainer import TrainSettings, train_bundle
from tests.bands import oblique_affine, phantom

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = PatchSettings((32, 32, 32), (2.0, 2.0, 2.0), (-200.0, 300.0), swap_on_flip=((3, 4),))


def _case() -> Case:
    values, labels = phantom()
    return Case.build("phantom", values, labels, (2.0, 2.0, 2.0))


@pytest.mark.parametrize(
    "path", sorted((ROOT / "bundles").glob("*/configs/datalist.json")), ids=lambda p: p.parents[1].name
)
def test_no_training_file_is_in_a_validation_list(path):
    content = json.loads(path.read_text())
    files = {
        split: {entry[k] for entry in content[split] for k in ("image", "label") if k in entry}
        for split in ("training", "validation")
    }
    assert files["training"]
    assert files["validation"]
    assert not files["training"] & files["validation"]
    patients = {split: {Path(f).name.rsplit("_", 1)[0] for f in names} for split, names in files.items()}
    assert not patients["training"] & patients["validation"]
    if path.parents[1].name.startswith("headneck_ct"):
        assert {"pt_201", "pt_222", "pt_225", "pt_236"} <= patients["validation"]
        assert len(patients["validation"]) == 8


def test_patches_keep_image_and_labels_together():
    """Labels stand where the brightness they were made from stands, after any turn, zoom and flip."""
    plain = PatchSettings((32, 32, 32), (2.0, 2.0, 2.0), (-200.0, 300.0))
    sampler = PatchSampler([_case()], plain, seed=0)
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


def test_every_class_is_drawn_about_equally_often():
    sampler = PatchSampler(
        [_case()], PatchSettings((8, 8, 8), (2.0, 2.0, 2.0), (-200.0, 300.0), organ_fraction=1.0), seed=0
    )
    seen = np.zeros(8)
    for _ in range(150):
        seen[np.unique(sampler.draw()[1])] += 1
    assert seen[1:].min() > 0.2 * seen[1:].max()


def test_a_flip_swaps_the_paired_organs():
    sampler = PatchSampler([_case()], SETTINGS, seed=0)
    labels = torch.tensor([[[[0, 3, 4, 7]]]])
    assert sampler._swap(labels).flatten().tolist() == [0, 4, 3, 7]


def test_the_loss_falls_with_agreement_and_ignores_absent_classes():
    labels = torch.zeros(1, 1, 8, 8, 8, dtype=torch.long)
    labels[..., :4] = 2
    right = torch.nn.functional.one_hot(labels[:, 0], 4).movedim(-1, 1).float() * 12
    assert float(weighted_dice_ce(right, labels)) < 0.01
    assert float(weighted_dice_ce(torch.zeros_like(right), labels)) > 1
    nothing = torch.zeros_like(labels)
    assert torch.isfinite(weighted_dice_ce(torch.zeros_like(right), nothing))


def _loop(folder: Path, steps: int) -> TrainingLoop:
    torch.manual_seed(0)
    network = SwinUNETR(1, 8, feature_size=12, window_size=4)
    settings = PatchSettings((64, 64, 32), (1.2, 1.2, 1.8), (-200.0, 300.0))
    loop = LoopSettings(steps, cooldown_steps=2, checkpoint_every=2)
    return TrainingLoop(OrganObjective(network), PatchSampler([_case()], settings, 0), loop, folder)


def test_the_loop_learns_and_goes_on_after_a_kill(tmp_path):
    first = _loop(tmp_path / "run", 12)
    image, labels = first.sampler.batch(1)
    before = float(first.objective(image, labels).detach())
    first.run()
    after = float(first.objective(image, labels).detach())
    assert after < before
    again = _loop(tmp_path / "run", 14)
    again.resume()
    assert again.step == 12
    for key, value in first.average.items():
        assert torch.equal(again.average[key], value)
    again.run()
    assert again.step == 14
    assert not list((tmp_path / "run").glob("*.tmp"))


def test_rate_and_background_follow_their_schedules():
    settings = LoopSettings(1000, cooldown_steps=400)
    assert settings.rate(0) == pytest.approx(1e-5)
    assert settings.rate(300) == settings.rate(599) == settings.learning_rate
    assert settings.rate(800) == pytest.approx(settings.learning_rate / 2)
    assert settings.rate(1000) == 0
    objective = OrganObjective(SwinUNETR(1, 8, feature_size=12), background_weights=((0, 0.1), (500, 1.0)))
    seen = []
    for objective.step in (0, 499, 500, 999):
        seen.append(objective.background())
    assert seen == [0.1, 0.1, 1.0, 1.0]


@pytest.fixture
def labelled(tmp_path, banded) -> tuple[Path, Path]:
    """A copy of the banded bundle and a list of phantoms with labels."""
    values, labels = phantom()
    for n in range(2):
        nib.save(nib.Nifti1Image(values, oblique_affine()), tmp_path / f"s{n}_ct.nii.gz")
        nib.save(nib.Nifti1Image(labels, oblique_affine()), tmp_path / f"s{n}_oar.nii.gz")
    entry = lambda n: {"image": f"s{n}_ct.nii.gz", "label": f"s{n}_oar.nii.gz"}  # noqa: E731
    (tmp_path / "list.json").write_text(json.dumps({"training": [entry(0)], "validation": [entry(1)]}))
    return Path(shutil.copytree(banded, tmp_path / "bundle")), tmp_path / "list.json"


def test_evaluation_scores_through_the_users_path_and_records(labelled):
    folder, data = labelled
    bundle = open_bundle(folder)
    scores = evaluate_bundle(bundle, data, data.parent, "validation", lambda _: None)
    assert scores["mean_dice"] > 0.97
    assert "| **mean of 1 cases** |" in table(bundle, scores)
    (folder / "docs").mkdir()
    marks = "<!-- scores: written by `medvit evaluate --record` -->\n<!-- end of scores -->"
    (folder / "docs" / "README.md").write_text(f"before\n{marks}\nafter\n")
    record_scores(bundle, scores)
    record_scores(bundle, scores)
    page = (folder / "docs" / "README.md").read_text()
    assert page.count("Mandible") == 1
    assert page.startswith("before")
    assert page.endswith("after\n")
    assert open_bundle(folder).metadata["eval_metrics"]["mean_dice"] == pytest.approx(scores["mean_dice"], abs=1e-4)


def test_dice_of_nothing_and_nothing_is_one():
    empty = np.zeros((3, 3), bool)
    assert dice(empty, empty) == 1
    assert dice(empty, ~empty) == 0


def test_lists_that_cannot_be_used(labelled, tmp_path):
    folder, data = labelled
    bundle = open_bundle(folder)
    with pytest.raises(SourceError, match="no readable data list"):
        read_list(bundle, tmp_path / "absent.json", None, "training")
    with pytest.raises(SourceError, match="no 'test' entries.*Its parts: training, validation"):
        read_list(bundle, data, tmp_path, "test")
    with pytest.raises(SourceError, match=r"every file of the list is needed. Set --root"):
        read_list(bundle, data, tmp_path / "elsewhere", "training")
    content = json.loads(data.read_text())
    content["validation"] = content["training"]
    content["test"] = []
    data.write_text(json.dumps(content))
    with pytest.raises(SourceError, match="a case may train or judge, not both"):
        read_list(bundle, data, tmp_path, "training")


def test_cases_that_cannot_be_used(labelled, tmp_path):
    folder, data = labelled
    (pair,) = read_list(open_bundle(folder), data, tmp_path, "training")
    with pytest.raises(SourceError, match=r"Found label 7 in s0_ct; the bundle knows 0\.\.4"):
        load_case(pair, 5)
    nib.save(nib.Nifti1Image(phantom()[1], np.eye(4)), pair.label)
    with pytest.raises(SourceError, match="image and labels on different grids"):
        load_case(pair, 8)


def test_publish_writes_half_precision_and_its_checksum(labelled):
    folder, _ = labelled
    publish(open_bundle(folder), {"centres": torch.linspace(0, 1, 8), "index": torch.arange(3)})
    bundle = open_bundle(folder)
    assert bundle.verify() == bundle.facts.weights.sha256
    from safetensors.torch import load_file

    stored = load_file(bundle.weights)
    assert list(stored) == ["centres"]
    assert stored["centres"].dtype == torch.float16


def _small_network(folder: Path) -> None:
    config = json.loads((folder / "configs" / "inference.json").read_text())
    config["network_def"] = {
        "_target_": "medvit.segmentation.SwinUNETR",
        "in_channels": 1,
        "out_channels": 8,
        "feature_size": 12,
        "window_size": 4,
    }
    (folder / "configs" / "inference.json").write_text(json.dumps(config))


def test_train_command_runs_from_the_bundles_own_configs(labelled, tmp_path):
    folder, data = labelled
    _small_network(folder)
    checkpoint = train_bundle(
        open_bundle(folder), TrainSettings(DataList(data, tmp_path), tmp_path / "runs", 2, publish=True)
    )
    assert torch.load(checkpoint, weights_only=True)["step"] == 2
    assert open_bundle(folder).verify()
    (folder / "configs" / "train.json").unlink()
    with pytest.raises(BundleError, match="no configs/train.json"):
        train_bundle(open_bundle(folder), TrainSettings(DataList(data, tmp_path), tmp_path / "runs", 2))


def test_training_is_scored_on_the_validation_split_as_users_run_it(labelled, tmp_path):
    folder, data = labelled
    _small_network(folder)
    path = folder / "configs" / "train.json"
    config = json.loads(path.read_text())
    config["loop"].update(validate_every=1)
    path.write_text(json.dumps(config))
    bundle = open_bundle(folder)
    train_bundle(bundle, TrainSettings(DataList(data, tmp_path), tmp_path / "runs", 2, publish=True))
    rows = (tmp_path / "runs" / "bundle" / "scores.csv").read_text().splitlines()
    assert rows[0].startswith("step,mean_dice,dice_brainstem")
    best = max(float(row.split(",")[1]) for row in rows[1:])
    kept = evaluate_bundle(
        bundle, data, tmp_path, "validation", lambda _: None
    )  # the published weights, in half precision
    assert kept["mean_dice"] == pytest.approx(best, abs=5e-3)


def test_a_recipe_that_cannot_be_built_or_published(labelled, tmp_path):
    folder, data = labelled
    _small_network(folder)
    settings = TrainSettings(DataList(data, tmp_path), tmp_path / "runs", 2)
    with pytest.raises(BundleError, match="no configs/absent.json in bundle; .*one that it has: --recipe pretrain"):
        train_bundle(open_bundle(folder), replace(settings, recipe="absent"))
    with pytest.raises(
        BundleError, match="--publish with the recipe pretrain; only 'train' makes the bundle's weights"
    ):
        train_bundle(open_bundle(folder), replace(settings, recipe="pretrain", publish=True))
    path = folder / "configs" / "train.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "objective": {**config["objective"], "loss": "hinge"}}))
    with pytest.raises(BundleError, match="the loss 'hinge'; it must be one of dice_ce, focal_tversky_ce"):
        train_bundle(open_bundle(folder), settings)
    path.write_text(json.dumps({**config, "loop": {"_target_": "medvit.training.LoopSettings", "stepz": 3}}))
    with pytest.raises(BundleError, match="configs/train.json of bundle that cannot be built: .*stepz.*Correct it"):
        train_bundle(open_bundle(folder), settings)
    path.write_text(json.dumps({k: v for k, v in config.items() if k != "recipe"}))
    with pytest.raises(BundleError, match="no 'recipe' in configs/train.json"):
        train_bundle(open_bundle(folder), settings)


def test_monai_bundle_run_training_is_the_same_run(labelled, tmp_path):
    folder, data = labelled
    _small_network(folder)
    (tmp_path / "shared").mkdir()
    shutil.copytree(data.parent, tmp_path / "shared" / "data", ignore=shutil.ignore_patterns("shared", "bundle"))
    shutil.copy(data, folder / "configs" / "datalist.json")
    command = [sys.executable, "-m", "monai.bundle", "run", "training", "--bundle_root", ".", "--loop#steps", "2"]
    command += ["--loop#cooldown_steps", "0"]
    command += ["--config_file", "['configs/inference.json','configs/train.json']"]
    environment = {**os.environ, "MEDVIT_SHARED": str(tmp_path / "shared"), "PYTHONPATH": str(ROOT)}
    outcome = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr[-2000:]
    theirs = torch.load(next(folder.rglob("checkpoint.pt")), weights_only=True)
    ours = torch.load(
        train_bundle(open_bundle(folder), TrainSettings(DataList(data, tmp_path), tmp_path / "runs", 2)),
        weights_only=True,
    )
    assert theirs["step"] == ours["step"] == 2
    assert all(torch.equal(theirs["average"][k], v) for k, v in ours["average"].items())
