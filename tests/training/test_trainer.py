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

import pytest
import torch
from typer.testing import CliRunner

from medvit.bundles import open_bundle
from medvit.cli.main import app
from medvit.errors import BundleError
from medvit.training import (
    TrainSettings,
    train_bundle,
)
from medvit.training.data import DataList
from medvit.training.evaluation import evaluate_bundle
from medvit.training.loop import publish
from medvit.training.objectives import OrganObjective
from tests import warm
from tests.label.learning import make_cases, make_learning_bundle

ROOT = Path(__file__).resolve().parents[2]


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
    config["roi_size"] = [64, 32, 32]
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
