"""``--deidentify``: results that name nobody, belong together all the same, and that validators take."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from medvit_batch.cli import app
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, generate_uid
from typer.testing import CliRunner

import medvit
from medvit.deidentification import Privacy, burned_in, deidentified_scan
from medvit.io import open_source
from tests.bands import make_restoring_bundle, phantom
from tests.batch.archives import IDENTIFYING, SMALL, without_numbers, write_small
from tests.tools import complaints

pytestmark = pytest.mark.usefixtures("one_fork_server")

_TYPES = ("-ot", "dicom-seg,rtstruct,sr,sc,nifti")
_MORE = {
    "InstitutionName": "Clinic of Secret", "InstitutionAddress": "Secret Street 1", "OperatorsName": "Operator^Secret",
    "PatientAge": "093Y", "PatientWeight": "71.5", "StudyDescription": "Secret's neck", "SeriesDescription": "Person axial",
    "ProtocolName": "Secret", "DeviceSerialNumber": "SERIAL-77", "StationName": "ROOM-SECRET", "PatientComments": "is a Person",
    "AcquisitionDate": "20200203", "SeriesDate": "20200203", "ContentDate": "20200203", "AcquisitionTime": "101112",
    "ImageComments": "of Person", "OtherPatientIDs": "ID-4711-B", "BodyPartExamined": "NECK", "FilterType": "for Person",
    "InstitutionalDepartmentName": "Radiology", "ReferringPhysicianName": "Doctor^Who", "PatientSex": "O",
}  # fmt: skip
_HIDDEN = (*IDENTIFYING, "SERIAL-77", "ROOM-SECRET", "Doctor", "Operator", "PRIVATE WORDS")
_TREE = ("labels.nii.gz", "rtstruct.dcm", "run.json", "seg.dcm", "sr.dcm", "statistics.json")


def _with_more(path: Path, **other: object) -> None:
    """A slice as scanners write it: sequences, private elements and overlays too."""
    d = pydicom.dcmread(path)
    for name, value in {**_MORE, **other}.items():
        setattr(d, name, value)
    d.private_block(0x0009, "MAKER", create=True).add_new(0x01, "LO", "PRIVATE WORDS of Person")
    step = Dataset()
    step.ReferencedSOPClassUID, step.ReferencedSOPInstanceUID = CTImageStorage, d.SOPInstanceUID
    d.ReferencedImageSequence = Sequence([step])
    request = Dataset()
    request.RequestedProcedureDescription, request.AccessionNumber = "for Person", "ACC-9"
    d.RequestAttributesSequence = Sequence([request])
    d.add_new(0x60003000, "OW", b"PRIVATE WORDS..")
    d.save_as(path, enforce_file_format=True)


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    top = tmp_path_factory.mktemp("archive")
    study = {"StudyInstanceUID": generate_uid()}
    for number in (1, 2):
        for path in write_small(top / "Secret^Person" / str(number), number, **study):
            _with_more(path, **({"StudyDate": "20200203"} if number == 1 else {"StudyDate": "20200213"}))
    write_small(top / "burned", 3, BurnedInAnnotation="YES")
    return top


def _batch(*arguments: object):
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def key(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("key") / "project.key"


@pytest.fixture(scope="module")
def done(archive, banded, key, tmp_path_factory):
    out = tmp_path_factory.mktemp("deid") / "out"
    line = ["run", archive, "-o", out, "-b", banded, *_TYPES, "--deidentify", "--deid-key", key, "--with-images"]
    planned = _batch(*line, "--select", "PatientID == ID-4711", "--dry-run", "--json")
    assert planned.exit_code == 0, planned.output
    assert not key.exists()
    outcome = _batch(*line, "--select", "PatientID == ID-4711")
    assert outcome.exit_code == 3, outcome.output
    assert key.stat().st_mode & 0o777 == 0o600
    status = _batch("status", out, "--cases", "--json")
    return out, planned.output + outcome.output + status.output


def _original(archive: Path) -> list[str]:
    """Every UID of the archive that is not of the standard."""
    found = set()
    for path in archive.rglob("*.dcm"):
        d = pydicom.dcmread(path)
        found |= {str(e.value) for e in d if e.VR == "UI" and not str(e.value).startswith("1.2.840.10008")}
    assert len(found) > 20
    return sorted(found)


def test_no_output_names_anybody(done, archive):
    out, said = done
    texts = {p: p.read_bytes() for p in out.rglob("*") if p.is_file() and p.name not in ("catalogue.sqlite", ".lock")}
    texts = {p: c for p, c in texts.items() if not p.name.startswith("catalogue")}
    for path in list(texts):
        if path.name.endswith(".nii.gz"):
            texts[path] = bytes(nib.load(path).header.binaryblock)
        elif path.name == "journal.sqlite":
            texts[path] = _without_archive(texts[path], archive)
    assert {p.name for p in texts} >= {
        *_TREE,
        "report.html",
        "cases.csv",
        "log.jsonl",
        "metrics.prom",
        "journal.sqlite",
    }
    texts[Path("terminal")] = said.encode()
    texts[Path("names")] = "\n".join(str(p.relative_to(out)) for p in out.rglob("*")).encode()
    for path, content in texts.items():
        plain = without_numbers(content)
        for value in _HIDDEN:
            assert value.encode() not in plain, (path, value)
        for uid in _original(archive):
            assert uid.encode() not in content, (path, uid)


def _without_archive(content: bytes, archive: Path) -> bytes:
    """The journal keeps the command as it was given, so that it can be given again."""
    return content.replace(str(archive).encode(), b"").replace(b"PatientID == ID-4711", b"")


def _names_nobody(d: Dataset, originals: set[str], path: Path) -> None:
    """In any depth."""
    for element in d:
        assert not element.tag.is_private, (path, element.tag)
        assert element.tag.group != 0x6000
        if element.VR == "SQ":
            for item in element.value:
                _names_nobody(item, originals, path)
        elif element.VR not in ("OW", "OB", "OF"):
            text = str(element.value)
            assert text not in originals, (path, element.keyword)
            for value in _HIDDEN:
                assert value.casefold() not in text.casefold() or element.VR == "UI", (path, element.keyword)


def test_values_of_objects_name_nobody_in_any_depth(done, archive):
    out, _ = done
    originals = set(_original(archive))
    objects = list((out / "cases").rglob("*.dcm"))
    assert len(objects) > 20

    for path in objects:
        d = pydicom.dcmread(path)
        _names_nobody(d, originals, path)
        assert (d.PatientIdentityRemoved, d.LongitudinalTemporalInformationModified) == ("YES", "REMOVED"), path
        assert [i.CodeValue for i in d.DeidentificationMethodCodeSequence] == ["113100"], path
        assert d.PatientBirthDate == "" and not d.StudyDate and not d.AccessionNumber


def test_objects_belong_together_under_their_new_uids(done, archive):
    """The SEG refers to the de-identified images beside it, the studies and the patient are one, and voxels are the same."""
    out, _ = done
    homes = [p.parent for p in (out / "cases").rglob("seg.dcm")]
    assert len(homes) == 2
    patients, studies = set(), set()
    for home in homes:
        seg, images = pydicom.dcmread(home / "seg.dcm"), [pydicom.dcmread(p) for p in (home / "images").iterdir()]
        patients.add((seg.PatientID, str(seg.PatientName)))
        studies.add(seg.StudyInstanceUID)
        (series,) = {d.SeriesInstanceUID for d in images}
        assert home.parent.name == series == seg.ReferencedSeriesSequence[0].SeriesInstanceUID
        named = {i.ReferencedSOPInstanceUID for i in seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence}
        assert named and named <= {d.SOPInstanceUID for d in images}
        assert {d.FrameOfReferenceUID for d in images} == {seg.FrameOfReferenceUID}
        for d in images:
            assert d.file_meta.MediaStorageSOPInstanceUID == d.SOPInstanceUID
            assert d.preamble == bytes(128)
            assert d.ReferencedImageSequence[0].ReferencedSOPInstanceUID == d.SOPInstanceUID
        record = json.loads((home / "run.json").read_text())
        assert {str(p.relative_to(home)) for p in home.rglob("*") if p.is_file()} == {*record["files"], "run.json"}
    assert (len(patients), len(studies)) == (1, 1)
    pixels = {
        p: sorted(pydicom.dcmread(f).PixelData for f in p.glob("*.dcm"))
        for p in (homes[0] / "images", homes[1] / "images")
    }
    sources = [sorted(pydicom.dcmread(f).PixelData for f in (archive / "Secret^Person" / n).iterdir()) for n in "12"]
    assert sorted(pixels.values()) == sorted(sources)


def test_validators_find_no_error(done, archive):
    out, _ = done
    source = next((archive / "Secret^Person" / "1").iterdir())
    before = set(complaints(source))
    for home in {p.parent for p in (out / "cases").rglob("seg.dcm")}:
        for name in ("seg.dcm", "rtstruct.dcm", "sr.dcm"):
            assert complaints(home / name) == []
        assert set(complaints(next((home / "sc").iterdir()))) == set()
        for path in list((home / "images").iterdir())[:2]:
            assert set(complaints(path)) <= before


def test_a_second_run_does_nothing_and_another_key_or_none_is_refused(done, archive, banded, key, tmp_path):
    out, _ = done
    line = ["run", archive, "-o", out, "-b", banded, *_TYPES, "--with-images", "--select", "PatientID == ID-4711"]
    again = _batch(*line, "--deidentify", "--deid-key", key)
    assert "0 case(s) to run" in again.output, again.output
    other = _batch(*line, "--deidentify", "--deid-key", tmp_path / "other.key")
    assert other.exit_code == 1
    assert "Found results that were made with another key" in " ".join(other.output.split())
    none = _batch(*line[:-3], "--select", "Slices > 1")
    assert none.exit_code == 1
    assert "Found results that were made with --deidentify" in " ".join(none.output.split())


def test_burned_in_words_are_refused_with_the_reason(done):
    out, _ = done
    with (out / "cases.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    (row,) = [r for r in rows if r["state"] == "set aside"]
    assert row["reason"].startswith("Found images with words burned into them")
    assert burned_in("CT", "") is None and burned_in("US", "NO") is None
    assert "do not say whether words are burned" in str(burned_in("US", ""))
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "PatientID" not in page
    assert "De-identified" in page


def test_an_image_files_name_is_hidden_by_the_key(banded, key, tmp_path):
    path = tmp_path / "archive" / "Secret^Person 4711.nii.gz"
    path.parent.mkdir()
    nib.save(nib.Nifti1Image(phantom(SMALL)[0], np.eye(4)), path)
    line = ("run", path.parent, "-o", tmp_path / "out", "-b", banded, "--dry-run", "--json")
    said = [_batch(*line).stdout, _batch(*line, "--deidentify", "--deid-key", key).stdout]
    plain, hidden = (json.loads(text)["decisions"][0]["case"] for text in said)
    assert plain != hidden and hidden.startswith("image-")
    assert "Secret" not in said[1]


def test_a_derived_series_names_nobody(archive, tmp_path):
    bundle = make_restoring_bundle(tmp_path / "bundles" / "stencil")
    scan = deidentified_scan(open_source(archive / "Secret^Person" / "1"), Privacy(key=b"0123456789abcdef"))
    medvit.restore(scan, bundle=bundle).save(tmp_path / "out", output_types=("dicom",))
    paths = list((tmp_path / "out" / "derived").iterdir())
    assert len(paths) == SMALL[2]
    for path in paths:
        _names_nobody(pydicom.dcmread(path), set(_original(archive)), path)
    assert complaints(paths[0]) == []
