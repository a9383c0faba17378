"""Data lists in which some labels of a case are unknown: read, trained on, judged, and refused where they contradict themselves."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

import medvit
from medvit.cli.main import app
from medvit.errors import SourceError
from medvit.segmentation import SwinUNETR
from medvit.training import PatchSampler, PatchSettings, TrainingCase
from medvit.training.data import DataList
from medvit.training.objectives import Objective, OrganObjective
from medvit.training.objectives.segmentation_losses import weighted_dice_ce
from tests.bands import oblique_affine, phantom
from tests.label.learning import make_learning_bundle

LABELS = ("brainstem", "spinal_cord", "parotid_right", "parotid_left", "esophagus", "larynx", "mandible")


class PartObjective(Objective):
    """The loss of partly labelled cases around ``BandNetwork``."""

    def forward(self, *batch: Tensor) -> Tensor:
        image, labels, *annotated = batch
        return weighted_dice_ce(self.network(image), labels, annotated=annotated[0] if annotated else None)


def _case(folder: Path, name: str, annotated: list[str] | None, said: bool = True) -> dict[str, object]:
    """Write a phantom without the labels that were not annotated; return its entry of a data list."""
    values, labels = phantom()
    kept = labels.copy()
    for number, label in enumerate(LABELS, 1):
        if annotated is not None and label not in annotated:
            kept[kept == number] = 0
    nib.save(nib.Nifti1Image(values, oblique_affine()), folder / f"{name}_ct.nii.gz")
    nib.save(nib.Nifti1Image(kept, oblique_affine()), folder / f"{name}_oar.nii.gz")
    entry: dict[str, object] = {"image": f"{name}_ct.nii.gz", "label": f"{name}_oar.nii.gz"}
    return entry if annotated is None or not said else {**entry, "annotated": annotated}


def _list(folder: Path, training: list[dict[str, object]], validation: list[dict[str, object]]) -> Path:
    (folder / "list.json").write_text(json.dumps({"training": training, "validation": validation}))
    return folder / "list.json"


@pytest.fixture
def learning(tmp_path) -> Path:
    """A bundle that learns within seconds, trained by the loss of partly labelled cases."""
    folder = make_learning_bundle(tmp_path / "bundle")
    path = folder / "configs" / "train.json"
    train = json.loads(path.read_text())
    train["objective"]["_target_"] = "tests.training.data.test_data_list.PartObjective"
    path.write_text(json.dumps(train))
    return folder


def _loss(bundle: Path, start: Path, data: Path) -> float:
    """Train for 20 steps through the command line; the loss that the run's curve states."""
    told = ["train", str(bundle), "--data", str(data), "--root", str(data.parent), "-o", str(data.parent / "runs")]
    outcome = CliRunner().invoke(app, [*told, "--device", "cpu", "--from", str(start), "--no-compare", "--steps", "20"])
    assert outcome.exit_code == 0, outcome.output
    (curve,) = (data.parent / "runs").rglob("curve.csv")
    (row,) = csv.DictReader(curve.open())
    return float(row["loss"])


def test_medvit_train_takes_an_organ_that_was_not_annotated_for_unknown(learning, banded, tmp_path):
    """Weights that find the parotids are not punished for it where the list says that nobody drew them."""
    some = [label for label in LABELS if not label.startswith("parotid")]
    losses = {}
    for said in (True, False):
        folder = tmp_path / f"said_{said}"
        folder.mkdir()
        data = _list(folder, [_case(folder, "t", some, said)], [_case(folder, "v", None)])
        losses[said] = _loss(learning, banded, data)
    assert losses[True] < losses[False] - 0.05  # the same patches


def _mean_dice(output: str) -> float:
    return float(re.search(r"mean of \d cases\*\* \| \*\*([\d.]+)", output)[1])


def test_medvit_evaluate_judges_the_labels_that_were_annotated(banded, tmp_path):
    some = ["brainstem", "mandible"]
    told = ["--root", str(tmp_path), "--device", "cpu"]
    partly = _list(
        tmp_path, [_case(tmp_path, "t", None)], [_case(tmp_path, "v", some), _case(tmp_path, "w", ["brainstem"])]
    )
    outcome = CliRunner().invoke(app, ["evaluate", str(banded), "--data", str(partly), *told])
    assert outcome.exit_code == 0, outcome.output
    assert "Not scored, since no case has them annotated: Spinal cord, " in outcome.output
    assert "not annotated in any case" in outcome.output
    assert _mean_dice(outcome.output) > 0.97
    plain = {"training": [_case(tmp_path, "t", None)], "validation": [_case(tmp_path, "v", some, said=False)]}
    partly.write_text(json.dumps(plain))
    outcome = CliRunner().invoke(app, ["evaluate", str(banded), "--data", str(partly), *told])
    assert _mean_dice(outcome.output) < 0.5


@pytest.mark.parametrize(
    ("annotated", "words"),
    [
        (["brainstem", "liver"], r"Found liver among the annotated labels of t_ct in .*; \S+ has brainstem, spinal_cord, .*Use its names"),
        ([], r"Found t_ct with annotated = \[\] in .*; the names of at least one label are needed"),
        ("brainstem", "Found t_ct with annotated = \"brainstem\" in .*Name the labels that were annotated"),
        (["brainstem"], "Found label .* in t_ct, which its data list does not list as annotated.*Add it to 'annotated'"),
    ],
    ids=["another organ", "no organ", "no list", "more than said"],
)  # fmt: skip
def test_lists_that_contradict_the_bundle_or_the_labels_are_refused(learning, tmp_path, annotated, words):
    entry = _case(tmp_path, "t", None) | {"annotated": annotated}
    data = _list(tmp_path, [entry], [_case(tmp_path, "v", None)])
    told = ["train", str(learning), "--data", str(data), "--root", str(tmp_path), "-o", str(tmp_path / "runs")]
    outcome = CliRunner().invoke(app, [*told, "--device", "cpu", "--steps", "1"])
    assert outcome.exit_code == 1
    assert "Traceback" not in outcome.output
    assert re.search(words, " ".join(outcome.output.split())), outcome.output


def test_a_recipe_that_needs_every_label_refuses_partly_labelled_cases(tmp_path):
    bundle = medvit.open_bundle("headneck_xray_swin_x2s")
    names = [label.name for label in bundle.facts.labels]
    entry = _case(tmp_path, "t", None) | {"annotated": names[:1]}
    data = _list(tmp_path, [entry], [_case(tmp_path, "v", None)])
    told = ["train", bundle.name, "--data", str(data), "--root", str(tmp_path), "-o", str(tmp_path / "runs")]
    outcome = CliRunner().invoke(app, [*told, "--device", "cpu", "--steps", "1"])
    assert outcome.exit_code == 1
    assert "partly labelled" in outcome.output
    assert "needs all labels of every case" in " ".join(outcome.output.split())


def test_a_flipped_patch_exchanges_which_side_was_annotated():
    values, labels = phantom()
    labels = np.where(labels == 4, 0, labels).astype(labels.dtype)  # the left parotid was not drawn
    case = TrainingCase.build("right only", values, labels, (2.0, 2.0, 2.0))
    known = torch.tensor([c != 4 for c in range(8)])
    case = replace(case, annotated=known)
    settings = PatchSettings(
        roi_size=(16, 16, 16), spacing_mm=(2.0, 2.0, 2.0), intensity_range=(-200.0, 300.0), swap_on_flip=((3, 4),)
    )
    sampler = PatchSampler([case], settings, 0)
    seen = set()
    for _ in range(40):
        _, ids, annotated = sampler.draw()
        assert set(np.unique(ids)) <= {c for c in range(8) if annotated[c]}
        seen.add(int((~annotated).nonzero()))
    assert seen == {3, 4}


def test_the_objective_takes_annotated_classes_at_every_resolution():
    torch.manual_seed(0)
    objective = OrganObjective(SwinUNETR(1, 3, feature_size=12, window_size=4))
    image, labels = torch.randn(1, 1, 64, 32, 32), torch.randint(0, 3, (1, 1, 64, 32, 32))
    all_known, one_unknown = torch.ones(1, 3, dtype=torch.bool), torch.tensor([[True, True, False]])
    with torch.no_grad():
        full = float(objective(image, labels))
        assert float(objective(image, labels, all_known)) == full
        merged = torch.where(labels == 2, 0, labels)
        assert float(objective(image, merged, one_unknown)) < float(objective(image, merged)) - 0.1


def test_the_shipped_list_of_the_head_and_neck_holds_what_the_data_say(shared, tmp_path):
    """120 cases in which organs.json and the ids in the files agree with the list's words."""
    bundle = medvit.open_bundle("headneck_ct_swin_unetr")
    entries = json.loads((bundle.root / "configs" / "datalist.json").read_text())["training"]
    partly = [entry for entry in entries if "annotated" in entry]
    organs = json.loads((shared / "data" / "ct_headneck_openkbp_partial" / "organs.json").read_text())
    assert len(partly) == len(organs) == 120
    plain = {
        "Brainstem": "brainstem",
        "SpinalCord": "spinal_cord",
        "RightParotid": "parotid_right",
        "LeftParotid": "parotid_left",
    }
    plain |= {name: name.lower() for name in ("Esophagus", "Larynx", "Mandible")}
    for entry in partly:
        patient = Path(entry["image"]).name.removesuffix("_ct.nii.gz")
        assert entry["annotated"] == [plain[name] for name in organs[patient]]
    contradicted = _list(tmp_path, [dict(partly[0], annotated=["larynx"])], [])
    settings = PatchSettings(roi_size=(16, 16, 16), spacing_mm=(3.0, 3.0, 3.0), intensity_range=(-200.0, 300.0))
    with pytest.raises(SourceError, match="which its data list does not list as annotated"):
        settings.sampler(bundle, DataList(contradicted, shared / "data"), 0)
