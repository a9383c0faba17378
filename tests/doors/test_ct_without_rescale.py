"""A CT without its rescale tags: nothing calls its values Hounsfield units, and every door names the tags."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from typer.testing import CliRunner

import medvit
from medvit.cli.main import app
from tests.bands import make_restoring_bundle, oblique_affine, phantom, write_series

VALUES = phantom((40, 36, 12))[0]


def _without(paths: list[Path], *tags: str) -> Path:
    for path in paths:
        dataset = pydicom.dcmread(path)
        for tag in (*tags, "RescaleType"):
            del dataset[tag]
        dataset.save_as(path, enforce_file_format=True)
    return paths[0].parent


@pytest.fixture(scope="module")
def series(tmp_path_factory) -> Path:
    """A CT whose stored values begin at 24, as those of a scanner do."""
    folder = tmp_path_factory.mktemp("series") / "ct"
    paths = write_series(folder, VALUES + 1024, oblique_affine(), PixelRepresentation=0)
    return _without(paths, "RescaleSlope", "RescaleIntercept")


def _invoke(*arguments: object):
    return CliRunner().invoke(app, [str(a) for a in arguments])


TAGS = "no RescaleSlope and no RescaleIntercept"


def test_inspect_names_the_tags(series):
    outcome = _invoke("inspect", series, "--json")
    assert outcome.exit_code == 3
    (volume,) = json.loads(outcome.stdout)["volumes"]
    assert [f["code"] for f in volume["findings"]] == ["no_rescale"]
    assert f"12 of 12 CT slices have {TAGS}" in volume["findings"][0]["text"]


def test_segment_flags_it_and_states_no_unit(series, banded, tmp_path):
    outcome = _invoke("segment", series, "-o", tmp_path / "out", "-b", banded, "-ot", "sr", "-ot", "nifti")
    assert outcome.exit_code == 3
    assert f"Warning: 12 of 12 CT slices have {TAGS}" in outcome.stderr
    assert json.loads((tmp_path / "out" / "statistics.json").read_text())["intensity_unit"] == "as stored"
    assert TAGS in " ".join(json.loads((tmp_path / "out" / "run.json").read_text())["notes"])
    report = pydicom.dcmread(tmp_path / "out" / "sr.dcm").to_json()
    assert "Hounsfield" not in report
    assert "Attenuation" not in report


def test_restore_flags_it_and_its_numbers_and_series_have_no_unit(series, tmp_path):
    bundle = make_restoring_bundle(tmp_path / "bundle")
    outcome = _invoke("restore", series, "-o", tmp_path / "out", "-b", bundle, "-ot", "dicom", "-p")
    assert outcome.exit_code == 3
    assert TAGS in outcome.stderr
    assert " HU" not in outcome.output
    assert json.loads((tmp_path / "out" / "statistics.json").read_text())["intensity_unit"] == "as stored"
    made = [pydicom.dcmread(p) for p in (tmp_path / "out" / "derived").iterdir()]
    assert all(d.get("RescaleType") != "HU" for d in made)


def test_drr_names_the_tags_when_it_refuses(series, tmp_path):
    outcome = _invoke("drr", series, "-o", tmp_path / "out")
    assert outcome.exit_code == 1
    assert TAGS in outcome.stderr
    outcome = _invoke("drr", series, "-o", tmp_path / "out", "--force")
    assert outcome.exit_code == 3
    assert f"Warning: 12 of 12 CT slices have {TAGS}" in outcome.stderr


def test_batch_flags_the_case(series, banded, tmp_path):
    shutil.copytree(series, tmp_path / "archive" / "a")
    outcome = _invoke("batch", "run", tmp_path / "archive", "-o", tmp_path / "out", "-b", banded, "--workers", 1)
    assert outcome.exit_code == 3, outcome.output
    with (tmp_path / "out" / "cases.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["state"], row["flagged"]) == ("published", "yes")
    assert TAGS in row["flags"]
    assert TAGS in (tmp_path / "out" / "report.html").read_text()


def test_python_says_it_in_the_notes(series, banded):
    result = medvit.segment(series, bundle=banded)
    assert any(TAGS in note for note in result.notes)


def test_one_missing_tag_is_enough_and_padding_is_not_made_air(tmp_path):
    values = VALUES + 1024
    values[:3] = 4000
    paths = write_series(tmp_path, values, oblique_affine(), PixelRepresentation=0, PixelPaddingValue=4000)
    scan = medvit.open_source(_without(paths, "RescaleIntercept"))
    assert "12 of 12 CT slices have no RescaleIntercept, so that" in scan.excluded[0]
    assert scan.array.min() == 24
    assert np.array_equal(scan.array[0, 3:], values[3:])


def test_a_slope_of_0_is_none_and_no_result_of_it_claims_a_unit(banded, tmp_path):
    for path in write_series(tmp_path / "ct", VALUES, oblique_affine()):
        dataset = pydicom.dcmread(path)
        dataset.RescaleSlope = 0
        dataset.save_as(path, enforce_file_format=True)
    said = "12 of 12 CT slices have a RescaleSlope of 0, so that the values may not be in Hounsfield units"
    outcome = _invoke("segment", tmp_path / "ct", "-o", tmp_path / "out", "-b", banded, "-ot", "nifti")
    assert outcome.exit_code == 3
    assert f"Warning: {said}" in outcome.stderr
    assert json.loads((tmp_path / "out" / "statistics.json").read_text())["intensity_unit"] == "as stored"
    bundle = make_restoring_bundle(tmp_path / "bundle")
    outcome = _invoke("restore", tmp_path / "ct", "-o", tmp_path / "restored", "-b", bundle, "-ot", "dicom")
    assert outcome.exit_code == 3, outcome.output
    made = [pydicom.dcmread(p) for p in (tmp_path / "restored" / "derived").iterdir()]
    assert {(float(d.RescaleSlope), d.RescaleType) for d in made} == {(1.0, "US")}


@pytest.mark.parametrize("tags", [("RescaleSlope",), ("RescaleSlope", "RescaleIntercept")])
def test_a_rescale_type_without_its_tags_is_not_passed_on(tags, tmp_path):
    for path in write_series(tmp_path / "ct", VALUES, oblique_affine()):
        dataset = pydicom.dcmread(path)
        for tag in tags:
            del dataset[tag]
        assert dataset.RescaleType == "HU"
        dataset.save_as(path, enforce_file_format=True)
    bundle = make_restoring_bundle(tmp_path / "bundle")
    outcome = _invoke("restore", tmp_path / "ct", "-o", tmp_path / "out", "-b", bundle, "-ot", "dicom")
    assert outcome.exit_code == 3, outcome.output
    made = [pydicom.dcmread(p) for p in (tmp_path / "out" / "derived").iterdir()]
    assert all(d.get("RescaleType") != "HU" for d in made)


def test_other_modalities_have_no_such_tags(tmp_path):
    paths = write_series(tmp_path, VALUES, oblique_affine(), Modality="MR")
    assert not medvit.open_source(_without(paths, "RescaleSlope", "RescaleIntercept")).excluded
