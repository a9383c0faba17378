"""Identifiers planted in every kind of place of a CT: none is in any output, and what is no identifier is still there."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from pathlib import Path

import nibabel as nib
import pydicom
import pytest
from medvit_batch.cli import app
from pydicom import Dataset
from pydicom.sequence import Sequence
from typer.testing import CliRunner

import medvit
from tests.bands import make_restoring_bundle
from tests.batch.archives import write_small
from tests.doors.planting import DAY, GONE, LEFT, LONG, SHORT, STUDY, item, plant, reference
from tests.tools import complaints

pytestmark = pytest.mark.usefixtures("one_fork_server")

_TYPES = ("-ot", "dicom-seg,rtstruct,sr,sc,nifti,dicom")


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> Path:
    """Series of two patients with one PatientID, from two issuers."""
    top = tmp_path_factory.mktemp("planted")
    for number, issuer in enumerate(("Rosenheim Clinic", "Elsewhere"), 1):
        for path in write_small(top / f"Müller^Bo {number}", number):
            plant(path, issuer)
    return top


@pytest.fixture(
    scope="module", params=[(), ("shifted-dates", "device", "institution", "characteristics")], ids=["basic", "kept"]
)
def run(request, planted, banded, tmp_path_factory) -> tuple[Path, str, tuple[str, ...]]:
    """A run of both kinds of bundle, without any option and with all."""
    place = tmp_path_factory.mktemp("deid")
    restoring = make_restoring_bundle(place / "stencil")
    rules = place / "rules.toml"
    rules.write_text(f'[[rules]]\nname = "both"\nwhen = "Rows"\nbundles = ["{banded}", "{restoring}"]\n')
    line = [
        "run",
        planted,
        "-o",
        place / "out",
        "--rules",
        rules,
        *_TYPES,
        "-s",
        "--deidentify",
        "--deid-key",
        place / "key",
    ]
    options = [part for name in request.param for part in ("--retain", name)]
    outcome = CliRunner().invoke(app, [str(part) for part in (*line, *options, "--with-images")])
    assert outcome.exit_code == 3, outcome.output
    return place / "out", outcome.output, request.param


def _texts(dataset: Dataset, at: str = "") -> Iterator[tuple[str, str]]:
    for element in dataset:
        where = f"{at}/{element.keyword or element.tag}"
        assert not element.tag.is_private, where
        if element.VR == "SQ":
            for item in element.value:
                yield from _texts(item, where)
        elif isinstance(element.value, bytes):
            yield where, element.value.decode("latin-1") if element.keyword != "PixelData" else ""
        elif element.VR != "UI" and element.keyword not in ("PatientName", "PatientID"):
            several = element.value if element.VM > 1 else [element.value]
            yield from ((where, str(value)) for value in several)


def _leaks(text: str) -> list[str]:
    """The planted identifiers that a text still holds, whatever its case, accents or separators."""
    folded = unicodedata.normalize("NFD", text.casefold())
    folded = re.sub(r"[\W_]+", "", "".join(c for c in folded if not unicodedata.combining(c)))
    found = [word for word in LONG if _folded(word) in folded]
    return found + [match[0] for pattern in (SHORT, DAY) for match in pattern.finditer(text)]


def _folded(word: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFD", word) if not unicodedata.combining(c))


def test_planted_identifiers_are_in_no_object(run):
    out, _, retained = run
    objects = sorted((out / "cases").rglob("*.dcm"))
    kinds = {pydicom.dcmread(path, stop_before_pixels=True).Modality for path in objects}
    assert kinds >= {"CT", "SEG", "RTSTRUCT", "SR", "OT"} and any(path.parent.name == "derived" for path in objects)
    for path in objects:
        d = pydicom.dcmread(path)
        for where, text in _texts(d):
            found = set(_leaks(text)) - ({"rosenheim"} if "institution" in retained else set())
            assert not found, (path.name, where, text)
        for keyword in GONE:
            assert keyword not in d or (d.Modality == "SR" and not d[keyword].value), (path.name, keyword)


def test_planted_identifiers_are_in_no_byte_of_any_file(run, planted):
    out, said, _ = run
    contents = {
        str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file() and "catalogue" not in p.name
    }
    contents = {
        name: bytes(nib.load(out / name).header.binaryblock) if name.endswith(".nii.gz") else c
        for name, c in contents.items()
    }
    contents["journal.sqlite"] = contents["journal.sqlite"].replace(str(planted).encode(), b"")
    contents |= {"terminal": said.encode(), "names": "\n".join(contents).encode()}
    words = (
        "Müller",
        "MÜLLER",
        "Mueller",
        "MULLER",
        "ID-4711",
        "ID4711",
        "ACC-9",
        "SECRETMARK",
        "小东",
        "みゅら",
        "19610312",
        "1234567",
    )
    for name, content in contents.items():
        plain = re.sub(rb"[0-9a-f]{32,}|[0-9.]{16,}", b"", content)
        for word in words:
            for encoding in ("utf-8", "latin-1", "utf-16-le"):
                try:
                    assert word.encode(encoding) not in plain, (name, word)
                except UnicodeEncodeError:
                    continue
    assert {Path(name).name for name in contents} >= {
        "run.json",
        "statistics.json",
        "statistics.csv",
        "report.html",
        "cases.csv",
        "log.jsonl",
    }


def test_technique_stays(run):
    out, _, retained = run
    for path in (out / "cases").rglob("images/*.dcm"):
        d = pydicom.dcmread(path)
        for keyword, value in LEFT.items():
            if keyword in ("ManufacturerModelName", "SoftwareVersions") and keyword not in d:
                continue
            found = d[keyword].value
            assert (list(found) if isinstance(value, list) else found) == value, keyword
        assert len(d.SoftwareVersions) == 2
        assert d.get("InstitutionName") == ("Klinikum Rosenheim" if "institution" in retained else None)
        assert d.ReconstructionDescription.startswith("soft")
        assert "sharp filter" in d.ImageFilterDescription
        codes = [(item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning) for item in d.ProcedureCodeSequence]
        assert codes == [("CTN", "99ROOM", "CT neck"), ("45036003", "SCT", "Ultrasonography of abdomen")]
        assert d.ContributingEquipmentSequence[0].Manufacturer == "HEAD"
        assert d.ReferencedImageSequence[0].ReferencedSOPInstanceUID == d.SOPInstanceUID


def test_notes_that_quote_a_header_quote_no_identifier(banded, tmp_path):
    write_small(tmp_path / "archive", 1, RescaleType="Secret")
    line = ["run", tmp_path / "archive", "-o", tmp_path / "out", "-b", banded, "-ot", "nifti", "--no-preview"]
    line += ["--deidentify", "--deid-key", tmp_path / "key"]
    CliRunner().invoke(app, [str(part) for part in line])
    (record,) = (tmp_path / "out" / "cases").glob("*/*/run.json")
    assert "(RescaleType), not Hounsfield" in record.read_text()
    for path in (record, *(tmp_path / "out").glob("*.*")):
        assert b"Secret" not in path.read_bytes() or "catalogue" in path.name, path


def test_one_patient_id_of_two_issuers_is_two_pseudonyms(run):
    out, _, _ = run
    by_series: dict[str, set[str]] = {}
    for path in (out / "cases").rglob("*.dcm"):
        d = pydicom.dcmread(path, stop_before_pixels=True)
        by_series.setdefault(path.relative_to(out / "cases").parts[0], set()).add(d.PatientID)
    assert len(by_series) == 2 and all(len(found) == 1 for found in by_series.values())
    assert len(set.union(*by_series.values())) == 2


def test_every_object_is_valid(run, planted):
    out, _, _ = run
    assert complaints(next(planted.rglob("*.dcm"))) == []
    one_of_each = {
        path.parent.name + path.suffix if path.name[0].isdigit() else path.name: path
        for path in (out / "cases").rglob("*.dcm")
    }
    assert len(one_of_each) == 6
    for path in one_of_each.values():
        assert complaints(path) == [], path


def test_new_objects_do_not_state_the_day_of_the_run(run):
    """A node makes them on the day of the study."""
    out, _, retained = run
    shifted, today = "shifted-dates" in retained, f"{date.today():%Y%m%d}"
    for path in (out / "cases").rglob("*.dcm"):
        d = pydicom.dcmread(path, stop_before_pixels=True)
        stated = [e.value for e in d if e.VR in ("DA", "DT") and e.value]
        assert today not in stated, path
        if d.Modality in ("SEG", "SR"):
            assert d.ContentDate and d.ContentTime
        if not shifted:
            assert set(stated) <= {"19000101"}, path
        elif d.Modality in ("SEG", "SR", "RTSTRUCT", "OT"):
            made = d.get("ContentDate") or d.StructureSetDate
            passed = datetime.strptime(made, "%Y%m%d") - datetime.strptime(d.StudyDate, "%Y%m%d")
            assert abs(passed - (datetime.now() - datetime(2020, 2, 3))) < timedelta(2)
    for path in (out / "cases").rglob("run.json"):
        finished = json.loads(path.read_text())["finished"]
        assert (finished is None) != shifted
        assert not str(finished).startswith(f"{date.today()}")


@pytest.mark.parametrize("fault", ["retired class", "empty", "no uid"])
def test_objects_beside_a_referenced_study_are_valid(fault, banded, tmp_path):
    """Without de-identification too: what highdicom would copy from the source as it is."""
    items = {
        "retired class": [reference(STUDY)],
        "empty": [],
        "no uid": [item(ReferencedSOPClassUID=STUDY)],
    }
    write_small(
        tmp_path / "series", 1, ReferencedStudySequence=Sequence(items[fault]),
        ProcedureCodeSequence=Sequence([item(CodeMeaning="CT")] if fault == "no uid" else []),
        PatientBirthDateInAlternativeCalendar="2504-03-12",
    )  # fmt: skip
    medvit.segment(tmp_path / "series", bundle=banded).save(tmp_path / "out", ("dicom-seg", "rtstruct", "sr"))
    for name in ("seg.dcm", "rtstruct.dcm", "sr.dcm"):
        assert complaints(tmp_path / "out" / name) == [], name
        assert pydicom.dcmread(tmp_path / "out" / name).PatientName == "Secret^Person"


def test_the_public_case_of_a_referenced_study_gives_valid_objects(shared, banded, tmp_path):
    source = shared / "cases" / "22_referenced_study"
    medvit.segment(source, bundle=banded).save(tmp_path / "out", ("dicom-seg", "rtstruct", "sr"))
    for name in ("seg.dcm", "rtstruct.dcm", "sr.dcm"):
        assert complaints(tmp_path / "out" / name) == [], name
        assert "ReferencedStudySequence" not in pydicom.dcmread(tmp_path / "out" / name)
