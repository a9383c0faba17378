"""Identity of the patient in a header: one rule for every door."""

from __future__ import annotations

import json
import shutil

import pydicom
import pytest
from typer.testing import CliRunner

from medvit.cli.main import app
from medvit.io.dicom.header import patients_among, person_of, resolved_issuers
from medvit.io.dicom.header.patient_identity import make_identity
from tests.bands import oblique_affine, phantom, write_series


def _header(number="1", issuer="", name="Tiny^One", birth="19500101"):
    header = pydicom.Dataset()
    header.PatientID, header.PatientName, header.PatientBirthDate = number, name, birth
    if issuer:
        header.IssuerOfPatientID = issuer
    return header


def _identity(number="1", issuer="", name="Tiny^One", birth="19500101"):
    return make_identity(number, issuer, name, birth, "")


@pytest.mark.parametrize(
    ("first", "second", "issuers", "patients"),
    [
        ({}, {}, ("", ""), 1),
        ({}, {"number": "2"}, ("", ""), 2),
        ({}, {"name": "Tiny^Two"}, ("", ""), 1),
        ({}, {"name": "Tiny^Two", "birth": "19510101"}, (None, None), 2),
        ({"issuer": "A"}, {"issuer": "B"}, ("A", "B"), 2),
        ({"issuer": "A"}, {"issuer": "A", "name": "Other"}, ("A", "A"), 1),
        ({"issuer": "A"}, {"name": "TINY^one^^"}, ("A", "A"), 1),
        ({"issuer": "A"}, {"name": "Tiny^Two"}, ("A", None), 2),
        ({"issuer": "A"}, {"birth": "19510101"}, ("A", None), 2),
        ({"issuer": "A", "birth": ""}, {"birth": ""}, ("A", None), 2),
        ({"number": ""}, {}, ("", ""), 2),
    ],
)
def test_two_headers_are_of_one_patient_or_not_or_it_is_a_question(first, second, issuers, patients):
    """An issuer of None is the question; until it is decided, the headers count as those of two patients."""
    a, b = _identity(**first), _identity(**second)
    for pair in ((a, b), (b, a)):
        resolved = resolved_issuers(pair)
        assert (resolved[a], resolved[b]) == issuers
        assert patients_among(pair) == patients


def test_a_patient_without_issuer_joins_the_only_one_that_agrees():
    with_issuer, without = _header(issuer="A"), _header(name="tiny^one")
    known = resolved_issuers((_identity(issuer="A"), _identity(name="tiny^one")))
    assert known[_identity(name="tiny^one")] == "A"
    assert person_of(without, "A") == person_of(with_issuer)
    assert patients_among(known) == 1
    both = [*known, _identity(issuer="B")]  # a third one agrees just as well
    assert resolved_issuers(both)[_identity(name="tiny^one")] is None
    assert resolved_issuers(both, assumed="B")[_identity(name="tiny^one")] == "B"
    assert person_of(_header(number="")) == person_of(_header(number="", name="TINY^ONE"))


def _inspected(folder):
    outcome = CliRunner().invoke(app, ["inspect", str(folder), "--json"])
    return outcome.exit_code, json.dumps(json.loads(outcome.stdout))


def test_versions_of_one_image_with_different_patients_are_a_question(shared, tmp_path):
    code, said = _inspected(shared / "cases" / "21_patient_corrected")
    assert code == 3
    assert "16 image(s) in two versions under the same UIDs, which differ in PatientID, PatientName" in said
    assert "Tiny" not in said and "RIGHT-PATIENT" not in said
    write_series(tmp_path / "a", phantom((12, 10, 6))[0], oblique_affine())
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    code, said = _inspected(tmp_path)  # copies, as they were
    assert code == 0 and "two versions" not in said
    for path in (tmp_path / "b").iterdir():
        changed = pydicom.dcmread(path)
        changed.AccessionNumber = "another"
        changed.save_as(path)
    code, said = _inspected(tmp_path)
    assert code == 3 and "the study's date, number or physician" in said


def test_slices_that_contradict_one_another_about_the_patient_are_refused(tmp_path):
    def written(name, **changes):
        write_series(tmp_path / name, phantom((12, 10, 6))[0], oblique_affine(), **changes)
        return _inspected(tmp_path / name)

    code, said = written("name", PatientName=lambda k: "One^A" if k else "Two^B")
    assert code == 3 and "several patients under one SeriesInstanceUID (PatientName differs)" in said
    code, said = written("issuers", IssuerOfPatientID=lambda k: "A" if k else "B")
    assert code == 3 and "(IssuerOfPatientID differs)" in said
    code, said = written("case", PatientName=lambda k: "One^A" if k else "ONE^a^")
    assert code == 0, said
    code, said = written(
        "sets", PatientName="Müller", SpecificCharacterSet=lambda k: "ISO_IR 192" if k else "ISO_IR 100"
    )
    assert code == 0, said
