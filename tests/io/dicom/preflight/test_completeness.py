"""Slices that are not there: dangling links, files that cannot be read or vanish, holes at an end; each is said, exit 3."""

from __future__ import annotations

import csv
import json
import os
import shutil
import stat
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
from typer.testing import CliRunner

import medvit
from medvit.cli.main import app
from medvit.errors import SourceError
from medvit.progress import Progress
from tests.bands import phantom, write_series

VALUES = phantom((24, 20, 12))[0]
AFFINE = np.diag([-1.0, -1.0, 2.5, 1.0])


def _invoke(*arguments: object):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def _write(folder: Path, **changes: object) -> list[Path]:
    """A series of 12 slices in order, numbered from 1."""
    changes = {"InstanceNumber": lambda k: k + 1, **changes}
    paths = write_series(folder, VALUES, AFFINE, **changes)
    return [path.rename(folder / f"im{k:02d}.dcm") for k, path in enumerate(paths)]


def _inspect(source: Path) -> tuple[int, dict]:
    outcome = _invoke("inspect", source, "--json")
    return outcome.exit_code, json.loads(outcome.stdout)


def _said(source: Path, count: int, words: str) -> None:
    """Check that inspect and Python flag the source with the same count and words."""
    code, content = _inspect(source)
    assert code == 3
    said = " ".join([*content["run"]["set_aside"], *(f["text"] for v in content["volumes"] for f in v["findings"])])
    assert words in said, said
    assert f"{count} " in said
    assert all(v["outcome"] != "ready" for v in content["volumes"] if v["number"] == content["run"]["volume"])
    assert any(words in text for text in medvit.open_source(source).excluded)


@pytest.mark.parametrize(
    "content",
    [
        b"/annex/objects/SHA256E-s34218--9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08.dcm\n",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:9f86d081884c7d65\nsize 34218\n",
        b"bplist00\xd4\x01\x02\x03NSURLNameKey_\x10\x08im11.dcm",
    ],
    ids=["git-annex", "lfs", "icloud"],
)
def test_placeholders_of_files_that_were_not_fetched(content, tmp_path):
    paths = _write(tmp_path)
    paths[-1].write_bytes(content)
    _said(tmp_path, 1, "placeholder(s) whose content was not fetched")


@pytest.mark.parametrize("content", [b"", bytes(2000)], ids=["empty", "zeros"])
def test_a_file_that_is_named_like_a_slice_and_is_none(content, tmp_path):
    paths = _write(tmp_path)
    paths[0].write_bytes(content)
    (tmp_path / "README").write_bytes(content)  # named otherwise: no slice
    _said(tmp_path, 1, "named like the slices")


def test_a_file_that_the_system_cannot_read(tmp_path):
    unreadable = Path("/proc/self/mem")  # a plain file whose first bytes are an error of the system
    if not unreadable.exists():
        pytest.skip("no such file on this system")
    paths = _write(tmp_path)
    paths[-1].unlink()
    paths[-1].symlink_to(unreadable)
    _said(tmp_path, 1, "file(s) that cannot be read")


def test_a_file_and_a_folder_without_permission(tmp_path):
    paths = _write(tmp_path / "s")
    (tmp_path / "s" / "closed").mkdir(mode=0)
    paths[-1].chmod(0)
    for folder in (tmp_path, *list(tmp_path.parents)[:-1]):
        if not folder.stat().st_mode & stat.S_IXOTH and os.geteuid() == 0:
            folder.chmod(folder.stat().st_mode | 0o055) if folder.is_relative_to("/tmp") else pytest.skip("closed")
    was = os.geteuid()
    if was == 0:  # who may read everything
        _inspect(tmp_path / "s")  # whatever is imported late
        os.seteuid(65534)
    try:
        code, content = _inspect(tmp_path / "s")
    finally:
        os.seteuid(was)
    assert code == 3
    assert {entry["reason"] for entry in content["not_read"]} == {
        "file(s) that cannot be read (Permission denied)",
        "folder(s) that cannot be opened (Permission denied)",
    }
    assert len(content["run"]["set_aside"]) == 2


def test_a_file_that_vanishes_between_discovery_and_reading(tmp_path):
    paths = _write(tmp_path)

    def take_away(stage: str, done: int, total: int) -> None:
        if stage == "read" and paths[-1].exists():
            paths[-1].unlink()

    with pytest.raises(SourceError, match=r"Found im11\.dcm gone since it was listed.*Run again"):
        medvit.open_source(tmp_path, progress=Progress(take_away))


def _zipped(archive: Path, folder: Path, links: dict[str, str]) -> Path:
    """A folder in a zip, with links: a name within the zip to what it says."""
    with zipfile.ZipFile(archive, "w") as packed:
        for path in sorted(folder.iterdir()):
            packed.write(path, f"s/{path.name}")
        for name, goal in links.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = (stat.S_IFLNK | 0o777) << 16
            packed.writestr(entry, goal)
    return archive


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_an_empty_folder_or_a_pipe_that_is_named_like_a_slice(kind, tmp_path):
    paths = _write(tmp_path)
    (tmp_path / "notes").mkdir()  # named otherwise: no slice
    assert _inspect(tmp_path)[0] == 0
    paths[-1].unlink()
    paths[-1].mkdir() if kind == "folder" else os.mkfifo(paths[-1])
    _said(tmp_path, 1, "named like the slices")
    if kind == "folder":
        (paths[-1] / "im00.dcm").write_bytes(paths[0].read_bytes())  # a folder that holds something is read
        assert "named like" not in json.dumps(_inspect(tmp_path)[1])


def test_a_zip_that_was_cut_off_is_called_that(tmp_path):
    _write(tmp_path / "s")
    archive = _zipped(tmp_path / "s.zip", tmp_path / "s", {})
    archive.write_bytes(archive.read_bytes()[:9000])
    outcome = _invoke("inspect", archive)
    assert outcome.exit_code == 1
    assert "an archive that cannot be opened as a zip: copy it again" in outcome.stderr


def test_lost_files_beside_other_images_are_a_note(annexed, tmp_path):
    _write(tmp_path / "whole")
    source = tmp_path / "both"
    source.mkdir()
    shutil.move(tmp_path / "whole", source / "whole")
    shutil.copytree(annexed, source / "clone", symlinks=True)
    number = next(v["number"] for v in _inspect(source)[1]["volumes"] if v["slices"] == 12)
    scan = medvit.open_source(source, series=str(number))
    assert not scan.excluded
    assert any("4 file(s) beside other images could not be read" in note for note in scan.notes)


# holes at an end that no gap between positions can show


@pytest.mark.parametrize("tag", ["ImagesInAcquisition", "NumberOfSeriesRelatedInstances"])
@pytest.mark.parametrize("lost", [slice(0, 3), slice(9, 12)], ids=["head", "tail"])
def test_a_stated_count_that_exceeds_what_is_there(lost, tag, tmp_path):
    paths = _write(tmp_path, **{tag: "12"})
    assert _inspect(tmp_path)[0] == 0
    for path in paths[lost]:
        path.unlink()
    _said(tmp_path, 3, f"3 of the 12 images that {tag} states are not there")


def test_a_stated_count_and_a_segmentation(banded, tmp_path):
    for path in _write(tmp_path / "s", ImagesInAcquisition="12")[10:]:
        path.unlink()
    outcome = _invoke("segment", tmp_path / "s", "-o", tmp_path / "out", "-b", banded)
    assert outcome.exit_code == 3
    assert "Warning: 2 of the 12 images that ImagesInAcquisition states are not there" in outcome.stderr
    assert (tmp_path / "out" / "labels.nii.gz").exists()


@pytest.mark.parametrize("lost", [1, 4])
def test_numbers_that_begin_late(lost, tmp_path):
    for path in _write(tmp_path)[:lost]:
        path.unlink()
    _said(tmp_path, lost, f"InstanceNumbers from {lost + 1} on")


def test_a_number_that_is_absent_where_the_slices_show_no_gap(tmp_path):
    taken = [2 * k + 1 if k < 6 else 2 * (k - 6) + 2 for k in range(12)]  # interleaved: odd numbers, then even ones
    paths = _write(tmp_path, InstanceNumber=lambda k: taken[k])
    paths[-1].unlink()
    assert _inspect(tmp_path)[0] == 0  # the last number: nothing shows that it was there
    paths[-2].unlink()
    paths[0].unlink()
    _said(tmp_path, 1, "InstanceNumbers from 2 on")


def test_one_time_point_that_ends_before_the_others(tmp_path):
    paths = _write(tmp_path, TemporalPositionIdentifier="1", InstanceNumber=None)
    for time in (2, 3, 4):
        for k, path in enumerate(paths):
            dataset = pydicom.dcmread(path)
            dataset.TemporalPositionIdentifier, dataset.SOPInstanceUID = time, pydicom.uid.generate_uid()
            dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
            dataset.PixelData = (VALUES[:, :, k].T + time).astype(np.int16).tobytes()
            if (time, k) != (3, 11):
                dataset.save_as(tmp_path / f"t{time}-{k:02d}.dcm")
    code, content = _inspect(tmp_path)
    assert code == 3
    flagged = {v["part"]: [f["code"] for f in v["findings"]] for v in content["volumes"] if v["outcome"] != "ready"}
    assert flagged == {"TemporalPositionIdentifier 3": ["shorter_than_others"]}


# honest series are not flagged


def test_honest_series_are_not_flagged(tmp_path):
    _write(tmp_path / "reversed", InstanceNumber=lambda k: 12 - k, ImagesInAcquisition="12")
    _write(tmp_path / "later", InstanceNumber=lambda k: 73 + k)
    _write(tmp_path / "from_zero", InstanceNumber=lambda k: k)
    _write(tmp_path / "steps_of_ten", InstanceNumber=lambda k: 10 * k + 1)
    _write(tmp_path / "without_numbers", InstanceNumber=None)
    _write(tmp_path / "two_acquisitions", AcquisitionNumber=lambda k: 1 + k // 6, ImagesInAcquisition="6")
    _write(tmp_path / "an_acquisition_each", AcquisitionNumber=lambda k: 1 + k, ImagesInAcquisition="12")
    _write(tmp_path / "nonsense", ImagesInAcquisition="1")
    paths = _write(tmp_path / "scout", InstanceNumber=lambda k: k + 2)
    scout = pydicom.dcmread(paths[0])
    scout.ImageType, scout.InstanceNumber = ["ORIGINAL", "PRIMARY", "LOCALIZER"], 1
    scout.ImageOrientationPatient, scout.SOPInstanceUID = [0, 1, 0, 0, 0, -1], pydicom.uid.generate_uid()
    scout.file_meta.MediaStorageSOPInstanceUID = scout.SOPInstanceUID
    scout.save_as(tmp_path / "scout" / "scout.dcm")
    for folder in sorted(tmp_path.iterdir()):
        code, content = _inspect(folder)
        assert code == 0, (folder.name, content["volumes"])
    one = _write(tmp_path / "one", ImagesInAcquisition="12")[4]
    assert _inspect(one)[0] == 0  # one slice that was given by itself


def test_batch_reports_what_was_not_read(annexed, banded, tmp_path):
    archive = tmp_path / "archive"
    archive.mkdir()
    shutil.move(annexed, archive / "clone")
    _write(tmp_path / "elsewhere")
    (archive / "linked").symlink_to(tmp_path / "elsewhere")
    (archive / "round").symlink_to(archive)
    _write(archive / "short", ImagesInAcquisition="14")
    (archive / "gone").mkdir()
    (archive / "gone" / "im00.dcm").symlink_to(tmp_path / "nowhere")
    paths = _write(archive / "hollow")
    for path, make in zip(paths[10:], (Path.mkdir, os.mkfifo), strict=True):
        path.unlink()
        make(path)
    empty = tmp_path / "empty"
    empty.mkdir()
    _zipped(archive / "links.zip", empty, {f"im{k}.dcm": f"im{k}.dcm" for k in range(3)})
    command = ("batch", "run", archive, "-o", tmp_path / "out", "-b", banded, "--workers", 1)
    outcome = _invoke(*command)
    assert outcome.exit_code == 3, outcome.output
    assert "8 file(s) could not be read" in outcome.output
    with (tmp_path / "out" / "cases.csv").open(newline="") as file:
        rows = {int(row["slices"]): row for row in csv.DictReader(file) if not row["flags"].startswith("2 of")}
    assert rows[8]["flagged"] == "yes"
    assert "4 link(s) that lead nowhere" in rows[8]["flags"]
    assert "lead nowhere" not in rows[12]["flags"]
    assert "Not read: 2 file(s) or folder(s) that are named like the slices" in rows[10]["flags"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "4 link(s) that lead nowhere" in page
    assert "2 of the 14 images that ImagesInAcquisition states are not there" in page
    assert "links or placeholders without a file" in page
