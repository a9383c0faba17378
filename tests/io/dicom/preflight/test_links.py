"""Links, folders and zips in a series: followed to their end, or named where they lead nowhere."""

from __future__ import annotations

import json
import shutil
import stat
import zipfile

import numpy as np
import pytest

import medvit
from tests.io.dicom.preflight.test_completeness import (
    _inspect,
    _invoke,
    _said,
    _write,
    _zipped,
)


def test_dangling_links_are_counted_and_the_result_is_flagged(annexed, banded, tmp_path):
    _said(annexed, 4, "link(s) that lead nowhere")
    outcome = _invoke("segment", annexed, "-o", tmp_path / "out", "-b", banded)
    assert outcome.exit_code == 3
    assert "Warning: Not read: 4 link(s) that lead nowhere" in outcome.stderr
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert sum("4 link(s) that lead nowhere" in note for note in record["notes"]) == 1
    assert "im08" not in json.dumps(record)  # a file's name may be a patient's
    result = medvit.segment(annexed, bundle=banded)
    assert any("4 link(s) that lead nowhere" in note for note in result.notes)


def test_the_shared_case_of_a_clone(shared, tmp_path):
    for k in range(12):
        (tmp_path / f"{k}.dcm").symlink_to(shared / "cases" / "01_dangling_links" / "store" / f"{k}.dcm")
    _said(tmp_path, 4, "link(s) that lead nowhere")


def test_a_link_in_the_middle_that_leads_nowhere_is_named_beside_the_gap(annexed, tmp_path):
    (tmp_path / "store" / "im03.dcm").unlink()
    outcome = _invoke("segment", annexed, "-o", tmp_path / "out")
    assert outcome.exit_code == 1
    assert "1 slice(s) missing" in outcome.stderr
    assert "5 link(s) that lead nowhere" in outcome.stderr


def test_all_slices_dangling_is_a_clear_refusal(annexed, tmp_path):
    shutil.rmtree(tmp_path / "store")
    for command in (["inspect", annexed], ["segment", annexed, "-o", tmp_path / "out"]):
        outcome = _invoke(*command)
        assert outcome.exit_code == 1
        assert "Found 12 link(s) that lead nowhere, and no DICOM image" in outcome.stderr
        assert "datalad get" in outcome.stderr
    lone = _invoke("segment", annexed / "im00.dcm", "-o", tmp_path / "out")
    assert lone.exit_code == 1
    assert "leads nowhere" in lone.stderr


def test_links_to_folders_are_followed_and_loops_end(shared, banded, tmp_path):
    study = tmp_path / "study"
    study.mkdir()
    (study / "series").symlink_to(shared / "cases" / "12_linked_folder" / "real")
    code, content = _inspect(study)
    assert (code, content["volumes"][0]["slices"]) == (0, 4)
    (study / "again").symlink_to(study / "series")  # a link to a link
    (study / "up").symlink_to(tmp_path)
    (study / "self").symlink_to(study)
    code, content = _inspect(study)
    assert content["volumes"][0]["slices"] == 4
    assert content["passed_over"] == {"link(s) to folders that are read by another name": 3}
    assert [f["code"] for f in content["volumes"][0]["findings"] if f["code"] == "copies"] == []
    notes = medvit.open_source(study).notes
    assert any("3 link(s) to folders that are read by another name" in note for note in notes)


def test_a_link_to_a_file_outside_and_a_link_to_a_link_are_read(tmp_path):
    paths = _write(tmp_path / "outside")
    (tmp_path / "s").mkdir()
    for path in paths:
        (tmp_path / "s" / path.name).symlink_to(path)
    (tmp_path / "s" / "im00.dcm").unlink()
    (tmp_path / "one").symlink_to(paths[0])
    (tmp_path / "s" / "im00.dcm").symlink_to(tmp_path / "one")
    scan = medvit.open_source(tmp_path / "s")
    assert np.array_equal(scan.array, medvit.open_source(tmp_path / "outside").array)
    assert not scan.excluded


def test_gits_own_files_are_no_images(annexed, tmp_path):
    shutil.move(tmp_path / "store", annexed / ".git")
    for path in annexed.glob("*.dcm"):
        path.unlink()
        path.symlink_to(annexed / ".git" / path.name)
    code, content = _inspect(annexed)
    assert code == 3
    assert (content["volumes"][0]["slices"], len(content["not_read"])) == (8, 4)
    assert content["passed_over"] == {"folder(s) of git's own files": 1}


def test_links_within_a_zip(annexed, tmp_path):
    with zipfile.ZipFile(tmp_path / "clone.zip", "w") as packed:
        for path in sorted(annexed.iterdir()):
            if path.exists():
                packed.write(path, path.name)
            entry = zipfile.ZipInfo(f"linked/{path.name}")
            entry.external_attr = (stat.S_IFLNK | 0o777) << 16
            packed.writestr(entry, f"../{path.name}")
    _said(tmp_path / "clone.zip", 4, "link(s) that lead nowhere")
    assert medvit.open_source(tmp_path / "clone.zip").array.shape[-1] == 8


def test_links_of_a_zip_are_followed_to_their_end(tmp_path):
    for path in _write(tmp_path / "s")[10:]:
        path.unlink()
    circles = {"s/im10.dcm": "im10.dcm", "s/im11.dcm": "im12.dcm", "s/im12.dcm": "im11.dcm"}
    _said(_zipped(tmp_path / "circles.zip", tmp_path / "s", circles), 3, "link(s) that lead nowhere")
    chain = {"s/im10.dcm": "im11.dcm", "s/im11.dcm": "../.git/annex/objects/x"}
    _said(_zipped(tmp_path / "chain.zip", tmp_path / "s", chain), 2, "link(s) that lead nowhere")
    sound = {"t": "s", "u/im00.dcm": "../t/im00.dcm", "u/im01.dcm": "im00.dcm"}
    code, content = _inspect(_zipped(tmp_path / "sound.zip", tmp_path / "s", sound))
    assert (code, content["not_read"], content["volumes"][0]["slices"]) == (0, [], 10)
    empty = tmp_path / "none"
    empty.mkdir()
    outcome = _invoke("inspect", _zipped(tmp_path / "none.zip", empty, {"im00.dcm": "im00.dcm"}))
    assert "Found 1 link(s) that lead nowhere, and no DICOM image" in outcome.stderr


def test_an_empty_folder_of_a_zip_that_is_named_like_a_slice(tmp_path):
    paths = _write(tmp_path / "s")
    paths[-1].unlink()
    paths[-1].mkdir()
    _said(_zipped(tmp_path / "s.zip", tmp_path / "s", {}), 1, "named like the slices")


def test_napari_opens_a_linked_folder(tmp_path):
    pytest.importorskip("napari")
    from medvit_napari.hooks import get_reader

    _write(tmp_path / "real")
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "series").symlink_to(tmp_path / "real")
    reader = get_reader(str(tmp_path / "study"))
    assert reader is not None
    ((data, _, kind),) = reader(str(tmp_path / "study"))
    assert (kind, sorted(data.shape)) == ("image", [12, 20, 24])
