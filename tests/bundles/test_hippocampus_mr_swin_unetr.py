"""The hippocampus bundle: heads are split, not sides; brightness has no unit; the shipped weights do what their card says."""

from __future__ import annotations

import json
import random
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import medvit
from medvit.bundles import open_bundle
from medvit.inference import load_model
from medvit.pipeline import Predictor
from medvit.training.data import load_labels, read_list
from tests.bands import dice

NAME = "hippocampus_mr_swin_unetr"
FOLDER = Path(__file__).resolve().parents[2] / "bundles" / NAME


def _heads(split: str) -> set[int]:
    content = json.loads((FOLDER / "configs" / "datalist.json").read_text())
    return {(int(Path(entry["image"]).name[12:15]) + 1) // 2 for entry in content[split]}


def test_the_list_is_split_as_it_says_by_head():
    training, validation = _heads("training"), _heads("validation")
    heads = sorted(training | validation)
    assert not training & validation
    assert validation == set(random.Random(0).sample(heads, len(heads) // 5))


def test_both_sides_of_a_head_are_stored_in_one_step_of_intensity(shared):
    """What the split rests on: MR of one head, cut into two cases, was scaled once."""
    folder = shared / "data" / "mr_hippocampus" / "images"
    steps = []
    for number in (3, 4, 7, 8, 389, 390):
        values = np.unique(np.asarray(nib.load(folder / f"hippocampus_{number:03d}.nii.gz").dataobj, dtype=np.float64))
        steps.append(float(np.diff(values)[np.diff(values) > 1e-6].min()))
    assert steps[::2] == pytest.approx(steps[1::2], rel=1e-3)
    assert steps[0] != pytest.approx(steps[2], rel=1e-3) != steps[4]


def _box(seed: int, scale: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (scale * (100 + 40 * rng.random((35, 51, 36)))).astype(np.float32)


def test_brightness_has_no_unit(tmp_path):
    """Twice as bright and shifted is the same image to the network."""
    if open_bundle(NAME).state != "trained":
        pytest.skip("no weights are shipped")
    labels = []
    for name, values in (("a", _box(0)), ("b", 12.5 * _box(0) + 300)):
        nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / f"{name}.nii.gz")
        labels.append(np.asarray(medvit.segment(tmp_path / f"{name}.nii.gz", bundle=NAME, backend="eager").array))
    assert labels[0].shape == (35, 51, 36)
    assert (labels[0] == labels[1]).mean() > 0.9999


def test_the_shipped_weights_reach_their_score_on_heads_they_were_not_trained_on(shared):
    bundle = open_bundle(NAME)
    assert bundle.verify() == bundle.facts.weights.sha256
    model = load_model(bundle, "cpu")
    pairs = read_list(bundle, None, shared / "data", "validation")[::16]
    found = []
    for pair in pairs:
        ids = Predictor(model).run(pair.image).array
        truth = load_labels(pair)
        found += [dice(ids == c, truth == c) for c in (1, 2)]
    assert np.mean(found) > bundle.metadata["eval_metrics"]["mean_dice"] - 0.05
