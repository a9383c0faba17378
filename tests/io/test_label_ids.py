"""Label maps whose ids went through floats, and tables of names that are broken or name two labels alike."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from typer.testing import CliRunner

import medvit
from medvit.cli.main import app
from medvit.errors import ImageError, SourceError
from tests.bands import oblique_affine


def _convert(*args: object):
    return CliRunner().invoke(app, ["convert", *map(str, args), "-ot", "nifti"])


@pytest.fixture
def ids() -> np.ndarray:
    made = np.zeros((14, 12, 10), np.uint8)
    for number in range(1, 8):
        made[number : number + 3, number : number + 2, number : number + 2] = number
    return made


def _saved_through_floats(path: Path, ids: np.ndarray, dtype: type) -> Path:
    """As nibabel writes floating-point labels under an integer header: scaled to the type's whole range."""
    header = nib.Nifti1Header()
    header.set_data_dtype(dtype)
    nib.save(nib.Nifti1Image(ids.astype(np.float64), oblique_affine(), header), path)
    stored = nib.load(path).get_fdata()
    assert not np.array_equal(stored, ids) and np.array_equal(stored.round(), ids)
    return path


def test_the_case_of_the_reports(shared, tmp_path):
    place = shared / "cases" / "06_autoscaled_labels" / "labels_saved_by_nibabel.nii.gz"
    outcome = _convert(place, "-o", tmp_path / "o")
    assert outcome.exit_code == 0, outcome.output
    assert "they were rounded, within a tolerance of 0.01" in outcome.output
    written = np.asarray(nib.load(tmp_path / "o" / "labels.nii.gz").dataobj)
    assert np.array_equal(written, nib.load(place).get_fdata().round())  # 0.99998 is 1, where cutting gives 0
    assert any("rounded" in note for note in json.loads((tmp_path / "o" / "run.json").read_text())["notes"])


@pytest.mark.parametrize("dtype", [np.int16, np.uint8])
def test_scaled_integers_are_rounded_within_half_a_step(dtype, ids, tmp_path):
    found = medvit.read_labels(_saved_through_floats(tmp_path / "a.nii.gz", ids, dtype))
    assert np.array_equal(found.array, ids) and "rounded" in found.notes[0]


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd", "a.mha"])
def test_floats_near_whole_numbers_are_rounded_and_others_refused(name, ids, rng, tmp_path):
    def write(values: np.ndarray) -> Path:
        if name.endswith(".nii.gz"):
            nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / name)
        else:
            sitk.WriteImage(sitk.GetImageFromArray(values.transpose(2, 1, 0)), str(tmp_path / name))
        return tmp_path / name

    noise = rng.uniform(-0.004, 0.004, ids.shape).astype(np.float32)
    found = medvit.read_labels(write(ids + noise))
    assert np.array_equal(found.array, ids) and "rounded" in found.notes[0]
    plain = medvit.read_labels(write(ids.astype(np.float32)))
    assert np.array_equal(plain.array, ids) and not any("rounded" in note for note in plain.notes)
    for spoilt in (ids + 6 * noise, ids * 0.5, ids - np.float32(1)):
        with pytest.raises(ImageError, match=r"labels are whole numbers from 0 to 65535 \(within 0.01\)"):
            medvit.read_labels(write(spoilt.astype(np.float32)))
    with pytest.raises(ImageError, match="Found NaN or infinite values"):
        medvit.read_labels(write(np.where(ids == 3, np.nan, ids).astype(np.float32)))


def _labelled(folder: Path, ids: np.ndarray, table: str | None = None, xml: bytes | None = None) -> Path:
    image = nib.Nifti1Image(ids, np.eye(4))
    if xml is not None:
        image.header.extensions.append(nib.nifti1.Nifti1Extension(0, xml))
    folder.mkdir()
    nib.save(image, folder / "labels.nii.gz")
    if table is not None:
        (folder / "labels.json").write_text(table)
    return folder / "labels.nii.gz"


BROKEN = {
    "not_json": "{",
    "empty": "",
    "no_table": "[]",
    "no_names": '{"labels": {"1": {"color": [1, 2, 3]}}}',
    "a_number_twice": '{"1": "liver", "1": "spleen"}',
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_table_beside_the_file_is_a_note_and_a_given_one_is_refused(kind, ids, tmp_path):
    path = _labelled(tmp_path / "a", ids, BROKEN[kind])
    outcome = _convert(path, "-o", tmp_path / "o")
    assert outcome.exit_code == 0, outcome.output
    assert "The names beside the label map were passed over" in outcome.output
    assert np.array_equal(np.asarray(nib.load(tmp_path / "o" / "labels.nii.gz").dataobj), ids)
    notes = json.loads((tmp_path / "o" / "run.json").read_text())["notes"]
    assert any("passed over" in note for note in notes) and "liver" not in str(notes)
    given = _convert(path, "-o", tmp_path / "p", "--labels", path.with_name("labels.json"))
    assert given.exit_code == 1 and "Found" in given.output


@pytest.mark.parametrize("inner", [b'<Label Key="one">', b'<Label Key="1">liver', b'<!DOCTYPE a [<!ENTITY b "c">]>'])
def test_a_broken_table_in_the_header_is_a_note(inner, ids, tmp_path):
    path = _labelled(tmp_path / "a", ids, xml=b"<LabelTable>" + inner + b"</Label></LabelTable>")
    found = medvit.read_labels(path)
    assert np.array_equal(found.array, ids)
    assert any("in the label map's header cannot be read" in note for note in found.notes)


def test_two_labels_of_one_name(ids, tmp_path):
    table = '{"1": "Liver", "2": {"name": "liver"}, "3": "spleen"}'
    found = medvit.read_labels(_labelled(tmp_path / "a", ids, table))
    assert [label.name for label in found.labels][:3] == ["liver", "liver_2", "spleen"]
    assert any("Names that labels.json gives more than once were numbered on: liver_2 (2)." in n for n in found.notes)
    outcome = _convert(tmp_path / "a" / "labels.nii.gz", "-o", tmp_path / "o", "--labels", tmp_path / "a/labels.json")
    assert outcome.exit_code == 1
    assert (
        "Found the name 'liver' for labels 1 and 2 in labels.json; each label needs a name of its own."
        in outcome.output
    )


def test_an_empty_label_file_is_refused(tmp_path):
    (tmp_path / "labels.nii.gz").touch()
    outcome = _convert(tmp_path / "labels.nii.gz", "-o", tmp_path / "o")
    assert outcome.exit_code == 1 and "an empty file (0 bytes)" in outcome.output and not (tmp_path / "o").exists()
    with pytest.raises(SourceError, match="an empty file"):
        medvit.read_labels(tmp_path / "labels.nii.gz")


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("[" * 100_000, "is not JSON"),
        ('{"1": {"name": "a", "color": [1e999, 0, 0]}}', "no label"),
        ('{"70000": "a"}', "70000 is above 65535"),
        ('{"1": {"name": "a", "volume": 1}, "2": {"name": 5}}', "no label"),
    ],
    ids=["deep", "colour", "number", "name"],
)
def test_odder_tables_are_a_note_beside_the_file_and_refused_where_given(table, words, ids, tmp_path):
    source = _labelled(tmp_path / "a", ids, table)
    outcome = _convert(source, "-o", tmp_path / "o")
    assert outcome.exit_code == 0, outcome.output
    assert "The names beside the label map were passed over" in outcome.output
    (tmp_path / "given.json").write_text(table)
    outcome = _convert(source, "-o", tmp_path / "p", "--labels", tmp_path / "given.json")
    assert outcome.exit_code == 1
    assert words in outcome.output and "unforeseen" not in outcome.output


def test_a_table_may_name_the_background(ids, tmp_path):
    (tmp_path / "given.json").write_text(json.dumps({"0": "background", **{str(n): f"part {n}" for n in range(1, 8)}}))
    source = _labelled(tmp_path / "s", ids)
    outcome = _convert(source, "-o", tmp_path / "o", "--labels", tmp_path / "given.json")
    assert outcome.exit_code == 0, outcome.output
    written = json.loads((tmp_path / "o" / "labels.json").read_text())["labels"]
    assert [row["name"] for row in written.values()] == [f"part_{n}" for n in range(1, 8)]


@pytest.mark.parametrize(
    "fields",
    [
        {"LabelValue": "1", "Color": "inf nan 1"},
        {"LabelValue": "\u00b2"},
        {"LabelValue": "9" * 5000},
        {"LabelValue": "70000"},
    ],
    ids=["colour", "superscript", "long", "large"],
)
def test_broken_fields_of_3d_slicer_do_not_stop_the_labels(fields, ids, tmp_path):
    image = sitk.GetImageFromArray(ids.transpose(2, 1, 0))
    for key, value in {"Name": "first", **fields}.items():
        image.SetMetaData(f"Segment0_{key}", value)
    sitk.WriteImage(image, str(tmp_path / "a.seg.nrrd"))
    outcome = _convert(tmp_path / "a.seg.nrrd", "-o", tmp_path / "o")
    assert outcome.exit_code == 0, outcome.output
    assert np.array_equal(nib.load(tmp_path / "o" / "labels.nii.gz").get_fdata(), ids)


def test_a_fraction_among_the_ids_is_named(ids, tmp_path):
    values = np.where(ids == 3, 2.75, ids).astype(np.float32)
    nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "a.nii.gz")
    outcome = _convert(tmp_path / "a.nii.gz", "-o", tmp_path / "o")
    assert outcome.exit_code == 1
    assert "Found values from 0 to 7, among them 2.75, in a.nii.gz" in outcome.output
