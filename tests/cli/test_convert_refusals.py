"""``medvit convert`` refuses what it cannot convert in one clear line, and names no patient."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import medvit
from tests.bands import phantom, write_series
from tests.batch.archives import without_numbers
from tests.cli.scenes import AFFINE
from tests.cli.test_convert import _run


def test_a_reference_whose_uids_are_broken_gives_nifti_and_exit_3(tmp_path):
    write_series(tmp_path / "ct", phantom()[0], AFFINE, SOPInstanceUID="")
    nib.save(nib.Nifti1Image(phantom()[1], AFFINE), tmp_path / "labels.nii.gz")
    outcome = _run(tmp_path / "labels.nii.gz", "-o", tmp_path / "a", "--like", tmp_path / "ct")
    assert outcome.exit_code == 3
    assert "dicom-seg not written: 29 of 29 slices have no SOPInstanceUID" in outcome.output
    assert (tmp_path / "a/labels.nii.gz").exists()
    outcome = _run(tmp_path / "labels.nii.gz", "-o", tmp_path / "b", "--like", tmp_path / "ct", "--repair-tags")
    assert outcome.exit_code == 0, outcome.output
    assert (tmp_path / "b/seg.dcm").exists()


def test_labels_that_are_all_zero_give_nifti_and_exit_3(place, tmp_path):
    nib.save(nib.Nifti1Image(np.zeros_like(phantom()[1]), AFFINE), tmp_path / "labels.nii.gz")
    outcome = _run(tmp_path / "labels.nii.gz", "-o", tmp_path / "a", "--like", place / "ct")
    assert outcome.exit_code == 3
    assert "no label has any voxel" in outcome.output


def _save(path: Path, array: np.ndarray) -> Path:
    nib.save(nib.Nifti1Image(array, AFFINE), path)
    return path


def test_whole_numbers_as_floats_are_labels_and_an_image_is_not(place, tmp_path):
    found = medvit.read_labels(_save(tmp_path / "f.nii.gz", phantom()[1].astype(np.float32)))
    assert np.array_equal(found.array, phantom()[1])
    values = np.arange(400, dtype=np.int16).reshape(20, 20, 1)
    for name, array, message in (
        ("ct", phantom()[0], "labels are whole numbers from 0"),
        ("half", phantom()[1] / 2, "labels are whole numbers from 0"),
        ("nan", np.where(phantom()[1] == 1, np.nan, 0.0), "Found NaN or infinite values"),
        ("many", values, "399 different values without a name"),
    ):
        outcome = _run(_save(tmp_path / f"{name}.nii.gz", array), "-o", tmp_path / "o", "--like", place / "ct")
        assert outcome.exit_code == 1
        assert message in outcome.output
        assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "which is not JSON"),
        ("[1, 2]", "holds no table of labels"),
        ('{"one": "liver"}', "an entry in names.json that is no label"),
        ('{"0": "background"}', "an entry in names.json that is no label"),
        ('{"1": 5}', "an entry in names.json that is no label"),
        ('{"1": {"name": "liver", "code": {"value": "1"}}}', "an entry in names.json that is no label"),
        (None, "no readable table of labels"),
    ],
)
def test_a_wrong_table_is_refused(content, message, place, tmp_path):
    if content is not None:
        (tmp_path / "names.json").write_text(content)
    outcome = _run(
        place / "organs.nii.gz", "-o", tmp_path / "o", "--like", place / "ct", "--labels", tmp_path / "names.json"
    )
    assert outcome.exit_code == 1
    assert message in outcome.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("absent.dcm",), "Found nothing at absent.dcm"),
        (("LABELS",), "Found no image to refer to for dicom-seg"),
        (("SEG", "-ot", "rtstruct", "--like", "LABELS"), "Found a nifti image to refer to for rtstruct"),
        (("SEG", "-ot", "png"), "labels can be converted to nifti, dicom-seg, rtstruct. Correct -ot"),
        (("SEG", "--threshold", "2"), "above 0 and at most 1"),
        (("SEG", "--labels", "x.json", "-b", "y"), "both --labels and -b"),
        (("SEG", "-b", "headneck"), "no bundle named 'headneck'"),
        (("PICTURE",), "a picture; labels need a place in the patient"),
        (("SEG", "--like", "PICTURE"), "Found a picture as the reference"),
        (("TEXT",), "neither DICOM nor a label map"),
    ],
)
def test_a_mistake_is_one_clear_line_and_exit_1(arguments, message, place, tmp_path):
    from PIL import Image

    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "p.png")
    (tmp_path / "t.txt").write_text("hello")
    names = {
        "LABELS": place / "organs.nii.gz",
        "SEG": place / "out/seg.dcm",
        "PICTURE": tmp_path / "p.png",
        "TEXT": tmp_path / "t.txt",
    }
    outcome = _run(*[names.get(a, a) for a in arguments], "-o", tmp_path / "out")
    assert outcome.exit_code == 1
    assert message in outcome.output
    assert "Traceback" not in outcome.output
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".medvit-*"))


def test_another_frame_of_reference_is_refused_and_force_is_recorded(place, tmp_path):
    write_series(tmp_path / "other", phantom()[0], AFFINE)
    refused = _run(place / "out/seg.dcm", "-o", tmp_path / "o", "--like", tmp_path / "other")
    assert refused.exit_code == 1
    assert "--force" in refused.output
    forced = _run(place / "out/seg.dcm", "-o", tmp_path / "o", "--like", tmp_path / "other", "--force")
    assert forced.exit_code == 3
    record = json.loads((tmp_path / "o/run.json").read_text())
    assert record["settings"]["forced"]
    assert "Forced: the frame of reference" in " ".join(record["notes"])


def test_existing_output_is_kept_until_overwrite(place, tmp_path):
    seg = place / "out/seg.dcm"
    assert _run(seg, "-o", tmp_path / "o", "--per-label").exit_code == 0
    before = (tmp_path / "o/run.json").read_bytes()
    assert "--overwrite" in _run(seg, "-o", tmp_path / "o").output
    assert (tmp_path / "o/run.json").read_bytes() == before
    assert _run(seg, "-o", tmp_path / "o", "--overwrite").exit_code == 0
    assert {p.name for p in (tmp_path / "o").iterdir()} == {"labels.json", "labels.nii.gz", "run.json"}


def test_nothing_written_or_said_names_the_patient(place, tmp_path):
    outcome = _run(
        place / "out/seg.dcm", "-o", tmp_path / "o", "--like", place / "ct", "-ot", "nifti,dicom-seg,rtstruct", "-v"
    )
    text = outcome.output + (tmp_path / "o/run.json").read_text() + (tmp_path / "o/labels.json").read_text()
    plain = without_numbers(text.replace(str(tmp_path), "").encode())
    for secret in ("Secret", "Person", "4711", "1950", "20200203", str(place)):
        assert secret.encode() not in plain


def test_it_explains_itself():
    outcome = _run("--help")
    assert outcome.exit_code == 0
    assert "Usage" in outcome.output


def test_json_is_json_and_quiet_is_quiet(place, tmp_path):
    outcome = _run(place / "out/seg.dcm", "-o", tmp_path / "a", "--json")
    assert json.loads(outcome.stdout)["files"] == ["labels.json", "labels.nii.gz", "run.json"]
    assert _run(place / "out/seg.dcm", "-o", tmp_path / "b", "-q").output == ""
