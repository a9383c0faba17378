"""Training further on a user's own cases: gentle with trained weights, honest about what comes out, never in the shipped bundle."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medvit.atomic_write import hashes_within
from medvit.bundles import open_bundle
from medvit.training import FineTuning, fine_tune
from medvit.training.data import DataList
from medvit.training.fine_tuning import fine_tuning_recipe
from medvit.training.recipe import read_recipe
from tests.label.learning import make_cases, make_learning_bundle


def test_a_gentle_recipe_starts_where_the_schedule_ended():
    recipe = read_recipe(open_bundle("hippocampus_mr_swin_unetr"))
    loop = fine_tuning_recipe(recipe, 30, 1e-4).loop
    assert (loop.steps, loop.learning_rate, loop.checkpoint_every, loop.validate_every) == (30, 1e-4, 3, 0)
    assert loop.warmup_steps == 3 and loop.cooldown_steps == 10
    objective = recipe.objective
    assert objective.background() == 1.0 and objective.deep_supervision == 0  # heads drawn anew have no say


def test_the_new_bundle_says_what_it_is_and_the_old_one_stays(tmp_path: Path):
    root = make_learning_bundle(tmp_path / "bundles" / "bands")
    metadata = root / "configs" / "metadata.json"
    check = {
        "precision": "bf16",
        "backend": "eager",
        "case": "0",
        "dice": {"brainstem": 1.0},
        "weights_sha256": "0",
        "versions": {},
    }
    content = json.loads(metadata.read_text())
    content["medvit"]["precision_checks"] = [check]
    metadata.write_text(json.dumps(content))
    before = hashes_within(root)
    names = make_cases(tmp_path / "s", tmp_path / "t", 3)
    entries = [{"image": f"s/{n}.nii.gz", "label": f"t/{n}.nii.gz"} for n in names]
    (tmp_path / "list.json").write_text(json.dumps({"training": entries[:2], "validation": entries[2:]}))
    data = DataList(tmp_path / "list.json", tmp_path)
    wanted = FineTuning(
        base=open_bundle(root),
        data=data,
        folder=tmp_path / "run",
        version="0.1.0+mine.1",
        steps=40,
        learning_rate=0.003,
        device="cpu",
    )
    said: list[str] = []
    found = fine_tune(wanted, said.append)
    assert said == ["judging the weights there are", "training", "judging the new weights"]
    assert found["after"] > found["before"] + 0.1 and set(found["cases_after"]) == {"case2"}
    new = open_bundle(wanted.candidate)
    new.verify()
    assert (new.name, new.version, new.state) == ("bands", "0.1.0+mine.1", "trained")
    assert new.facts.precision_checks == () and new.intended_use == open_bundle(root).intended_use
    assert new.metadata["eval_metrics"]["mean_dice"] == pytest.approx(found["after"], abs=1e-4)
    assert "trained further on 2 cases" in new.metadata["changelog"]["0.1.0+mine.1"]
    assert "on 1 cases held out" in (new.root / "docs" / "README.md").read_text()
    assert json.loads((new.root / "docs" / "training.json").read_text())["steps"] == 40
    assert hashes_within(root) == before
    # asked again, a run that is done neither trains nor judges the old weights anew
    (tmp_path / "run" / "before.json").write_text(
        json.dumps(json.loads((tmp_path / "run" / "before.json").read_text()) | {"score": 0.5})
    )
    assert fine_tune(wanted, said.append)["before"] == 0.5
