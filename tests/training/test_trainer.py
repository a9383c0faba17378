"""Lists without leakage, patches that fit their labels, a loop that learns, survives a kill and publishes."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from medvit.atomic_write import HIDDEN
from medvit.bundles import open_bundle
from medvit.cli.main import app
from medvit.errors import BundleError, SourceError
from medvit.reports import dice
from medvit.segmentation import SwinUNETR
from medvit.training import (
    LoopSettings,
    PatchSampler,
    PatchSettings,
    TrainingCase,
    TrainingLoop,
    TrainSettings,
    train_bundle,
)
from medvit.training.data import DataList, read_list
from medvit.training.data.patches import load_case
from medvit.training.evaluation import evaluate_bundle, record_scores, table
from medvit.training.loop import publish
from medvit.training.objectives import OrganObjective
from medvit.training.objectives.segmentation_losses import weighted_dice_ce
from tests import warm
from tests.bands import oblique_affine, phantom
from tests.label.learning import make_cases, make_learning_bundle

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = PatchSettings(
    roi_size=(32, 32, 32), spacing_mm=(2.0, 2.0, 2.0), intensity_range=(-200.0, 300.0), swap_on_flip=((3, 4),)
)


def _case() -> TrainingCase:
    values, labels = phantom()
    return TrainingCase.build("phantom", values, labels, (2.0, 2.0, 2.0))


def _patient(file: str) -> str:
    name = Path(file).name
    if name.startswith("hippocampus_"):  # numbers 2k-1 and 2k are the two sides of one head
        return f"hippocampus head {(int(name[12:15]) + 1) // 2}"
    if name.startswith("synthseg_training_seg_"):  # one map of each person
        return name
    return name.rsplit("_", 1)[0]


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
    patients = {split: {_patient(f) for f in names} for split, names in files.items()}
    assert not patients["training"] & patients["validation"]
    if path.parents[1].name.startswith("headneck_ct"):
        assert {"pt_201", "pt_222", "pt_225", "pt_236"} <= patients["validation"]
        assert len(patients["validation"]) == 8


def test_patches_keep_image_and_labels_together():
    """Labels stand where the brightness they were made from stands, after any turn, zoom and flip."""
    plain = PatchSettings(roi_size=(32, 32, 32), spacing_mm=(2.0, 2.0, 2.0), intensity_range=(-200.0, 300.0))
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


def test_brightness_without_a_unit_is_scaled_by_percentiles():
    """Each image's own percentiles become 0 and 1, as MONAI's transform in inference.json makes them."""
    from monai.transforms import ScaleIntensityRangePercentiles

    case = _case()
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
    case = _case()
    marked = {tuple(v) for voxels in case.voxels.values() for v in voxels}
    for settings, all_on in ((near, True), (far, False)):
        sampler = PatchSampler([case], settings, seed=0)
        centres = [tuple(np.round(sampler._pick()[1]).astype(int)) for _ in range(40)]
        assert all(c in marked for c in centres) == all_on


def test_every_class_is_drawn_about_equally_often():
    sampler = PatchSampler(
        [_case()],
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
    settings = PatchSettings(roi_size=(64, 64, 32), spacing_mm=(1.2, 1.2, 1.8), intensity_range=(-200.0, 300.0))
    loop = LoopSettings(steps=steps, cooldown_steps=2, checkpoint_every=2)
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
    assert not list((tmp_path / "run").glob(f"{HIDDEN}*"))


def test_rate_and_background_follow_their_schedules():
    settings = LoopSettings(steps=1000, cooldown_steps=400)
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
    with pytest.raises(SourceError, match=r"every file of the list is needed. Set root"):
        read_list(bundle, data, tmp_path / "elsewhere", "training")
    content = json.loads(data.read_text())
    content["validation"] = content["training"]
    content["test"] = []
    data.write_text(json.dumps(content))
    with pytest.raises(SourceError, match="a case may train or judge, not both"):
        read_list(bundle, data, tmp_path, "training")
    content["validation"] = [e | {"image": f"./elsewhere/../{e['image']}"} for e in content["training"]]
    data.write_text(json.dumps(content))
    with pytest.raises(SourceError, match="Found s0_ct.nii.gz in several parts"):  # written another way, the same file
        read_list(bundle, data, tmp_path, "validation")
    for parts, words in (
        ({"training": []}, "no 'training' entries in .*; give a list with some"),
        ([], "no readable data list at .*it is not an object"),
        ({"training": [{"label": "s0_oar.nii.gz"}]}, "an entry without 'image' in"),
    ):
        data.write_text(json.dumps(parts))
        with pytest.raises(SourceError, match=words):
            read_list(bundle, data, tmp_path, "training")


def test_cases_that_cannot_be_used(labelled, tmp_path):
    folder, data = labelled
    (pair,) = read_list(open_bundle(folder), data, tmp_path, "training")
    with pytest.raises(SourceError, match=r"Found label 7 in s0_ct; the bundle knows 0\.\.4"):
        load_case(pair, 5)
    ids = nib.load(pair.label)
    for spoilt, words in (
        (-1.0, r"Found label -1 in s0_ct; the bundle knows 0\.\.7"),
        (1.5, "labels of s0_ct that are no whole numbers; ids are needed, not probabilities"),
        (np.nan, "labels of s0_ct that are no whole numbers"),
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
    found = PatchSampler([empty, _case()], replace(SETTINGS, organ_fraction=1.0, reach=0.0), 0).batch(3)[1]
    assert all(bool(patch.any()) for patch in found)  # beside others it teaches background alone
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
        open_bundle(folder),
        TrainSettings(data=DataList(data, tmp_path), output=tmp_path / "runs", steps=2, publish=True),
    )
    assert torch.load(checkpoint, weights_only=True)["step"] == 2
    assert open_bundle(folder).verify()
    (folder / "configs" / "train.json").unlink()
    with pytest.raises(BundleError, match="no configs/train.json"):
        train_bundle(
            open_bundle(folder), TrainSettings(data=DataList(data, tmp_path), output=tmp_path / "runs", steps=2)
        )


def test_training_is_scored_on_the_validation_split_as_users_run_it(labelled, tmp_path):
    folder, data = labelled
    _small_network(folder)
    path = folder / "configs" / "train.json"
    config = json.loads(path.read_text())
    config["loop"].update(validate_every=1)
    path.write_text(json.dumps(config))
    bundle = open_bundle(folder)
    train_bundle(bundle, TrainSettings(data=DataList(data, tmp_path), output=tmp_path / "runs", steps=2, publish=True))
    rows = (tmp_path / "runs" / "bundle" / "scores.csv").read_text().splitlines()
    assert rows[0].startswith("step,mean_dice,dice_brainstem")
    best = max(float(row.split(",")[1]) for row in rows[1:])
    kept = evaluate_bundle(
        bundle, data, tmp_path, "validation", lambda _: None
    )  # the published weights, in half precision
    assert kept["mean_dice"] == pytest.approx(best, abs=5e-3)
    _check_record(folder, data, tmp_path)


def _check_record(folder: Path, data: Path, root: Path) -> None:
    """docs/training.json says what was run on what, in hashes that sha256sum gives, and names no machine or folder."""
    text = (folder / "docs" / "training.json").read_text()
    record = json.loads(text)
    assert (record["steps"], record["seed"], record["precision"]) == (2, 0, "fp32")
    assert record["machine"].startswith("cpu, ") and record["versions"]["torch"] == str(torch.__version__)
    assert platform.node() not in text and str(root) not in text
    named = sorted(v for entry in json.loads(data.read_text())["training"] for v in entry.values())
    summed = subprocess.run(["sha256sum", *named], cwd=root, capture_output=True, text=True, check=True).stdout
    digest = hashlib.sha256(summed.encode()).hexdigest()
    assert record["data"]["training_files_sha256"] == digest
    assert record["data"]["training_files"] == len(named)
    assert record["data"]["list_sha256"] == hashlib.sha256(data.read_bytes()).hexdigest()
    assert (folder / "docs" / "scores.csv").read_text() == (root / "runs" / "bundle" / "scores.csv").read_text()


_KILLED = """
import os, signal, sys
from medvit.cli.main import app
from medvit.training.loop import training_loop as loop

whole = loop.store_state
def stored(path, state):
    whole(path, state)
    os.kill(os.getpid(), signal.SIGKILL)  # the moment after the first checkpoint

loop.store_state = stored
app(sys.argv[1:])
"""


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_a_killed_command_goes_on_and_another_bundles_weights_are_refused(tmp_path):
    root = make_learning_bundle(tmp_path / "bands")
    (name,) = make_cases(tmp_path / "s", tmp_path / "t", 1)
    (tmp_path / "list.json").write_text(
        json.dumps({"training": [{"image": f"s/{name}.nii.gz", "label": f"t/{name}.nii.gz"}], "validation": []})
    )
    path = root / "configs" / "train.json"
    config = json.loads(path.read_text())
    config["loop"].update(checkpoint_every=3, validate_every=0)
    path.write_text(json.dumps(config))
    told = [
        "train",
        str(root),
        "--data",
        str(tmp_path / "list.json"),
        "--root",
        str(tmp_path),
        "--steps",
        "7",
        "-d",
        "cpu",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    killed = warm.run(
        [sys.executable, "-c", _KILLED, *told, "-o", str(tmp_path / "killed")],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert killed.returncode == -9, killed.stderr[-2000:]
    checkpoint = tmp_path / "killed" / "bands" / "checkpoint.pt"
    assert torch.load(checkpoint, weights_only=True)["step"] == 3
    ends = {}
    for folder in ("killed", "whole"):
        outcome = CliRunner().invoke(app, [*told, "-o", str(tmp_path / folder)])
        assert outcome.exit_code == 0, outcome.output
        assert ("Going on from" in outcome.output) == (folder == "killed")
        ends[folder] = torch.load(tmp_path / folder / "bands" / "checkpoint.pt", weights_only=True)["average"]
    assert all(torch.equal(v, ends["whole"][k]) for k, v in ends["killed"].items())
    torch.save({"average": {"encoder.weight": torch.zeros(3)}}, tmp_path / "other.pt")
    refused = CliRunner().invoke(app, [*told, "-o", str(tmp_path / "new"), "--from", str(tmp_path / "other.pt")])
    said = " ".join(refused.output.split())
    assert refused.exit_code == 1 and "Traceback" not in said
    assert "Found no tensor in" in said and "weights of the same architecture are needed" in said


def test_a_recipe_that_cannot_be_built_or_published(labelled, tmp_path):
    folder, data = labelled
    _small_network(folder)
    settings = TrainSettings(data=DataList(data, tmp_path), output=tmp_path / "runs", steps=2)
    with pytest.raises(BundleError, match="no configs/absent.json in bundle; .*one that it has: recipe=.pretrain."):
        train_bundle(open_bundle(folder), replace(settings, recipe="absent"))
    with pytest.raises(
        BundleError, match="publish=True with the recipe pretrain; only 'train' makes the bundle's weights"
    ):
        train_bundle(open_bundle(folder), replace(settings, recipe="pretrain", publish=True))
    path = folder / "configs" / "train.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "objective": {**config["objective"], "loss": "hinge"}}))
    with pytest.raises(BundleError, match="the loss 'hinge'; it must be one of dice_ce, focal_tversky_ce"):
        train_bundle(open_bundle(folder), settings)
    path.write_text(json.dumps({**config, "loop": {"_target_": "medvit.training.LoopSettings", "stepz": 3}}))
    with pytest.raises(
        BundleError, match="the setting LoopSettings.stepz; LoopSettings has no such setting. Correct the config"
    ):
        train_bundle(open_bundle(folder), settings)
    path.write_text(json.dumps({**config, "loop": {"_target_": "medvit.training.NoLongerThere"}}))
    with pytest.raises(BundleError, match="configs/train.json of bundle that cannot be built: .*NoLongerThere"):
        train_bundle(open_bundle(folder), settings)
    path.write_text(json.dumps({k: v for k, v in config.items() if k != "recipe"}))
    with pytest.raises(BundleError, match="no 'recipe' in configs/train.json"):
        train_bundle(open_bundle(folder), settings)


def test_from_whole_weights_the_help_of_new_ones_is_left_out_and_stays_so(labelled, tmp_path, monkeypatch):
    """Heads drawn anew and a light background would first undo what the weights know; a run that goes on must not bring them back."""
    folder, data = labelled
    _small_network(folder)
    first = train_bundle(
        open_bundle(folder), TrainSettings(data=DataList(data, tmp_path), output=tmp_path / "first", steps=1)
    )
    seen: list[tuple[int, float, float]] = []
    plain = OrganObjective.forward

    def forward(objective: OrganObjective, *batch: torch.Tensor) -> torch.Tensor:
        seen.append((objective.step, objective.background(), objective.deep_supervision))
        return plain(objective, *batch)

    monkeypatch.setattr(OrganObjective, "forward", forward)
    onwards = TrainSettings(data=DataList(data, tmp_path), output=tmp_path / "onwards", steps=1, start=str(first))
    train_bundle(open_bundle(folder), onwards)
    train_bundle(open_bundle(folder), replace(onwards, steps=2, start=None))
    assert seen == [(0, 1.0, 0.0), (1, 1.0, 0.0)]
    part = torch.load(first, weights_only=True)
    torch.save({"average": dict(list(part["average"].items())[:-1])}, tmp_path / "part.pt")
    train_bundle(open_bundle(folder), replace(onwards, output=tmp_path / "part", start=str(tmp_path / "part.pt")))
    assert seen[-1] == (0, 0.1, 0.3)


def test_another_seed_draws_other_samples_and_is_recorded(labelled, tmp_path):
    folder, data = labelled
    _small_network(folder)
    ends = {}
    for name, seed in (("bundle's", None), ("same", 0), ("other", 5)):
        settings = TrainSettings(
            data=DataList(data, tmp_path), output=tmp_path / name, steps=1, publish=True, seed=seed
        )
        ends[name] = torch.load(train_bundle(open_bundle(folder), settings), weights_only=True)["objective"]
        assert json.loads((folder / "docs" / "training.json").read_text())["seed"] == (seed or 0)
    key = "network.out.conv.conv.weight"
    assert torch.equal(ends["bundle's"][key], ends["same"][key])
    assert not torch.allclose(ends["same"][key], ends["other"][key], atol=1e-2)
    path = folder / "configs" / "train.json"
    config = json.loads(path.read_text())
    config["recipe"]["loop"] = config.pop("loop")
    path.write_text(json.dumps({**config, "initialize": []}))
    with pytest.raises(
        BundleError, match="a seed for configs/train.json of bundle, which has no 'loop'.*Leave seed out"
    ):
        train_bundle(open_bundle(folder), settings)
    outcome = CliRunner().invoke(app, ["train", str(folder), "--seed", "-1"])
    assert outcome.exit_code == 2 and "Traceback" not in outcome.output


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
    outcome = warm.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr[-2000:]
    theirs = torch.load(next(folder.rglob("checkpoint.pt")), weights_only=True)
    ours = torch.load(
        train_bundle(
            open_bundle(folder), TrainSettings(data=DataList(data, tmp_path), output=tmp_path / "runs", steps=2)
        ),
        weights_only=True,
    )
    assert theirs["step"] == ours["step"] == 2
    # not bit by bit: sums of floats may differ with where a longer-lived process has its memory; another seed differs by per cents
    pairs = [(theirs["average"][k].double(), v.double()) for k, v in ours["average"].items()]
    apart, size = (float(sum(x)) for x in zip(*(((a - b).abs().sum(), b.abs().sum()) for a, b in pairs), strict=True))
    assert apart < 1e-4 * size
