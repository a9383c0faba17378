"""``medvit inspect``: the table, the JSON, the picture and the exit codes, through the command."""

from __future__ import annotations

import json

import numpy as np
import pydicom
import pytest
from PIL import Image
from typer.testing import CliRunner

from medvit.cli.main import app
from tests.bands import oblique_affine, phantom, write_series

SMALL = phantom((20, 18, 12))[0]


def _inspect(*arguments: object):
    return CliRunner().invoke(app, ["inspect", *map(str, arguments)])


def test_a_sound_series(tmp_path):
    write_series(tmp_path, SMALL, oblique_affine())
    outcome = _inspect(tmp_path)
    assert outcome.exit_code == 0, outcome.output
    assert "A run takes volume 1: ready." in outcome.output
    assert "Secret" not in outcome.output
    assert "ID-4711" not in outcome.output


def test_an_irregular_series_exits_3_and_names_the_place(tmp_path):
    write_series(tmp_path, SMALL, np.diag([-1.0, -1.0, 2.5, 1.0]))[5].unlink()
    outcome = _inspect(tmp_path)
    assert outcome.exit_code == 3
    assert "a gap of 5.00 mm between the slices at 10.00 and 15.00 mm" in outcome.output
    assert "irregular: choose --on-irregular resample or split" in outcome.output


def test_json_has_positions_findings_and_no_patient(tmp_path):
    paths = write_series(tmp_path, SMALL, np.diag([-1.0, -1.0, 2.5, 1.0]), FrameOfReferenceUID="")
    dataset = pydicom.dcmread(paths[0])
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    dataset.SOPInstanceUID = "1.2.3"
    dataset.save_as(tmp_path / "scout.dcm", enforce_file_format=True)
    (tmp_path / "broken.dcm").write_bytes(bytes(128) + b"DICM" + bytes(range(90)))
    (tmp_path / "notes.txt").write_text("hello")
    outcome = _inspect(tmp_path, "--json")
    assert outcome.exit_code == 3
    content = json.loads(outcome.output)
    assert content["files"] == 15
    assert [v["kind"] for v in content["volumes"]] == ["volume", "localizer"]
    volume = content["volumes"][0]
    assert volume["positions_mm"] == [2.5 * k for k in range(12)]
    assert volume["spacing_mm"] == [1.0, 1.0, 2.5]
    assert [f["code"] for f in volume["findings"]] == ["missing_uid"]
    assert (
        volume["findings"][0]["text"]
        == "12 of 12 slices have no FrameOfReferenceUID. To have DICOM objects, add --repair-tags."
    )
    assert content["damaged"][0]["file"] == "broken.dcm"
    assert content["set_aside"]["not_dicom"] == 1
    assert content["run"]["volume"] is None  # the damaged file may be one of the slices
    assert "Secret" not in outcome.output


def test_the_picture_is_drawn_once_and_not_over_another(tmp_path):
    write_series(tmp_path / "s", SMALL, oblique_affine())[3].unlink()
    picture = tmp_path / "slices.png"
    assert _inspect(tmp_path / "s", "--picture", picture).exit_code == 3
    with Image.open(picture) as drawn:
        pixels = np.asarray(drawn.convert("RGB"), dtype=int)
    assert pixels.min() < 100 < 250 < pixels.max()
    orange = (pixels[..., 0] > 170) & (pixels[..., 1] < 120) & (pixels[..., 2] < 60)
    assert orange.sum() > 50  # the gap stands out
    again = _inspect(tmp_path / "s", "--picture", picture)
    assert again.exit_code == 1
    assert "pictures are never written over silently. Add --overwrite." in again.output
    assert _inspect(tmp_path / "s", "--picture", picture, "--overwrite").exit_code == 3
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".medvit")] == []


def test_image_files_are_described(examples, tmp_path):
    outcome = _inspect(examples / "headneck_ct.nii.gz", "--json")
    assert outcome.exit_code == 0
    content = json.loads(outcome.output)
    assert (content["kind"], content["shape"][0], content["outcome"]) == ("nifti", 1, "ready")
    assert "Orientation: " in _inspect(examples / "headneck_ct.nii.gz").output
    refused = _inspect(examples / "headneck_ct.nii.gz", "--picture", tmp_path / "x.png")
    assert "no slices with positions to draw" in refused.output


@pytest.mark.parametrize(("make", "words"), [
    (lambda p: None, "Found nothing at"),
    (lambda p: p.mkdir(), "Found no files in"),
    (lambda p: p.write_bytes(b""), r"no DICOM images among 1 file(s)"),
])  # fmt: skip
def test_nothing_to_inspect_is_one_clear_line(make, words, tmp_path):
    make(tmp_path / "x")
    outcome = _inspect(tmp_path / "x")
    assert outcome.exit_code == 1
    assert words in outcome.output
    assert "Traceback" not in outcome.output


def test_many_volumes_are_listed_in_part(tmp_path):
    for n in range(62):
        write_series(tmp_path / f"{n}", SMALL[:6, :6, :1] + n, oblique_affine())
    outcome = _inspect(tmp_path)
    assert "and 2 more volumes; --json lists them all." in outcome.output
    assert len(json.loads(_inspect(tmp_path, "--json").output)["volumes"]) == 62


def test_sound_series_side_by_side_need_a_choice_and_exit_3(tmp_path):
    for name in "ab":
        write_series(tmp_path / name, SMALL, oblique_affine())
    outcome = _inspect(tmp_path)
    assert outcome.exit_code == 3
    assert "A run says: Found 2 series in one source" in outcome.output
    assert "--series NUMBER or --series UID." in " ".join(outcome.output.split())


@pytest.mark.parametrize("command", ["inspect", "segment"])
def test_json_is_json_where_nothing_is_found(command, tmp_path):
    more = ["-o", str(tmp_path / "out")] if command == "segment" else []
    outcome = CliRunner().invoke(app, [command, str(tmp_path / "none"), "--json", *more])
    assert outcome.exit_code == 1
    error = json.loads(outcome.stdout)["error"]
    assert error["kind"] == "SourceError"
    assert error["message"].startswith("Found nothing at")
    assert outcome.stderr.startswith("Error: Found nothing at")


def test_what_headers_say_is_shown_as_it_is(tmp_path):
    """Rich would take words in brackets for its own markup, and stop at some."""
    paths = write_series(tmp_path, SMALL, oblique_affine(), Modality="[/b]", ImageType=["A", "B", "[red]"])
    for k, path in enumerate(paths):
        dataset = pydicom.dcmread(path)
        dataset.ImageType, dataset.SOPInstanceUID = ["A", "B", "[/x]"], f"1.2.3.{k + 1}"
        dataset.save_as(tmp_path / f"second-{k}.dcm")
    outcome = _inspect(tmp_path)
    assert outcome.exit_code == 3
    assert "[/b]" in outcome.output
    assert "[red]" in outcome.output
