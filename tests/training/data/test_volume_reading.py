"""Data lists whose NIfTI files state other units, two places, or ids that went through floats: evaluated and trained on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from medvit.cli.main import app
from tests.bands import phantom

AFFINE = np.array([[0.0, -2.0, 0, 30], [-2.0, 0, 0, 40], [0, 0, -3.0, 50], [0, 0, 0, 1]])
MIRROR, MICRON = np.diag([-1.0, 1, 1, 1]), np.diag([1e3, 1e3, 1e3, 1])


def _run(*args: object):
    return CliRunner().invoke(app, [str(a) for a in args])


def _save(path: Path, values: np.ndarray, sform: np.ndarray, qform: np.ndarray, unit: str) -> None:
    header = nib.Nifti1Header()
    header.set_data_dtype(np.uint8 if path.name.endswith("oar.nii.gz") else np.int16)
    image = nib.Nifti1Image(values, None, header)
    image.set_sform(sform, 1)
    image.set_qform(qform, 1)
    image.header.set_xyzt_units(unit, "sec")
    nib.save(image, path)


def _listed(folder: Path, mirrored: bool) -> Path:
    """One case a split: the image in millimetres, its labels in micron and scaled as nibabel stores floats."""
    values, labels = phantom((32, 28, 20))
    turn = MIRROR if mirrored else np.eye(4)
    for split in ("training", "validation"):
        _save(folder / f"{split}_ct.nii.gz", values, AFFINE, turn @ AFFINE, "mm")
        _save(
            folder / f"{split}_oar.nii.gz", labels.astype(np.float64), MICRON @ AFFINE, MICRON @ turn @ AFFINE, "micron"
        )
        assert not np.array_equal(nib.load(folder / f"{split}_oar.nii.gz").get_fdata(), labels)
    cases = {s: [{"image": f"{s}_ct.nii.gz", "label": f"{s}_oar.nii.gz"}] for s in ("training", "validation")}
    (folder / "list.json").write_text(json.dumps(cases))
    return folder / "list.json"


@pytest.mark.parametrize("mirrored", [False, True])
def test_evaluate_reads_references_as_images_are_read(mirrored, banded, tmp_path):
    listed = _listed(tmp_path, mirrored)
    asked = ("evaluate", banded, "--data", listed, "--root", tmp_path, "--json")
    outcome = _run(*asked)
    assert outcome.exit_code == (3 if mirrored else 0), outcome.output
    scores = json.loads(outcome.stdout)
    assert scores["mean_dice"] > 0.8
    assert any(n.startswith("validation_oar.nii.gz: The label ids are stored up to") for n in scores["notes"])
    assert any("lengths in microns" in n for n in scores["notes"])
    assert len(scores["set_aside"]) == (2 if mirrored else 0)  # of the image and of its labels
    assert (outcome.stderr.count("Warning:") == 2) == mirrored
    if mirrored:
        chosen = _run(*asked, "--geometry", "qform")
        scores = json.loads(chosen.stdout)
        assert chosen.exit_code == 0 and scores["geometry"] == "qform" and not scores["set_aside"]
        assert sum("as requested" in note for note in scores["notes"]) == 2


def test_train_reads_them_alike_and_says_so(banded, tmp_path):
    listed = _listed(tmp_path, mirrored=True)
    folder = Path(shutil.copytree(banded, tmp_path / "bundle"))
    network = {"in_channels": 1, "out_channels": 8, "feature_size": 12, "window_size": 4}
    path = folder / "configs" / "inference.json"
    config = json.loads(path.read_text())
    config["network_def"] = {"_target_": "medvit.segmentation.SwinUNETR", **network}
    path.write_text(json.dumps(config))
    outcome = _run(
        "train", folder, "--data", listed, "--root", tmp_path, "--steps", 1, "-o", tmp_path / "runs", "--publish"
    )
    assert outcome.exit_code == 3, outcome.output
    assert "Warning: training_ct.nii.gz: The NIfTI's sform and qform differ" in outcome.output
    assert "Note: training_oar.nii.gz: The label ids are stored up to" in outcome.output
    record = json.loads((folder / "docs" / "training.json").read_text())["reading"]
    assert record["geometry"] is None and any("were rounded" in text for text in record["remarks"])
    assert "training_ct" not in json.dumps(record)
