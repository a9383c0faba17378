"""Tags are repaired only when asked, in copies, the same way each time, and the objects then are sound."""

from __future__ import annotations

import json
import shutil
import subprocess

import pydicom
import pytest
from typer.testing import CliRunner

import medvit
from medvit.cli.main import app
from medvit.io import open_source
from medvit.io.dicom import repair_uids
from tests.bands import oblique_affine, phantom, write_series

FAULTS = {
    "no SOP instance UIDs": {"SOPInstanceUID": ""},
    "one SOP instance UID for all": {"SOPInstanceUID": "1.2.3"},
    "no UIDs at all": {
        "SOPInstanceUID": "",
        "StudyInstanceUID": "",
        "SeriesInstanceUID": "",
        "FrameOfReferenceUID": "",
    },
    "a frame of reference per slice": {"FrameOfReferenceUID": lambda k: f"1.2.3.{k + 1}"},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_repaired_series_give_sound_objects_and_say_so(fault, banded, tmp_path):
    paths = write_series(tmp_path / "series", phantom()[0], oblique_affine(), **FAULTS[fault])
    before = [path.read_bytes() for path in paths]
    arguments = ["segment", str(tmp_path / "series"), "-o", str(tmp_path / "out"), "-b", str(banded)]
    arguments += ["-ot", "dicom-seg", "-ot", "rtstruct", "--repair-tags"]
    outcome = CliRunner().invoke(app, arguments)
    assert outcome.exit_code == 0, outcome.output
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["settings"]["repaired"]
    assert all(change.startswith("Repaired: ") for change in record["settings"]["repaired"])
    assert set(record["settings"]["repaired"]) <= set(record["notes"])
    assert [path.read_bytes() for path in paths] == before
    seg = pydicom.dcmread(tmp_path / "out" / "seg.dcm")
    assert seg.StudyInstanceUID
    assert seg.FrameOfReferenceUID == pydicom.dcmread(tmp_path / "out" / "rtstruct.dcm").FrameOfReferenceUID
    if shutil.which("dciodvfy"):
        for name in ("seg.dcm", "rtstruct.dcm"):
            found = subprocess.run(["dciodvfy", "-new", str(tmp_path / "out" / name)], capture_output=True, text=True)
            assert not [line for line in found.stderr.splitlines() if line.startswith("Error")]


def test_the_same_image_gets_the_same_uids(tmp_path):
    write_series(tmp_path / "series", phantom()[0], oblique_affine(), SOPInstanceUID="")
    uids = []
    for _ in range(2):
        scan, _changes = repair_uids(open_source(tmp_path / "series"))
        uids.append([h.SOPInstanceUID for h in scan.slices])
        assert len(set(uids[-1])) == len(uids[-1])
    assert uids[0] == uids[1]


def test_a_sound_series_is_left_alone(banded, tmp_path):
    write_series(tmp_path / "series", phantom()[0], oblique_affine())
    scan = open_source(tmp_path / "series")
    assert repair_uids(scan) == (scan, ())
    assert medvit.segment(scan, bundle=banded, repair_tags=True).settings["repaired"] == []


@pytest.mark.parametrize("name", ["ct_body_j2k_totalseg", "ct_chest_LIDC-IDRI-0314_32slices.zip"])
def test_real_series_with_bad_uids(name, shared, banded, tmp_path):
    result = medvit.segment(shared / "data" / "dicom" / name, bundle=banded, repair_tags=True)
    saved = result.save(tmp_path / "out", ("dicom-seg", "nifti"))
    assert not saved.not_written
    assert "seg.dcm" in saved.files
