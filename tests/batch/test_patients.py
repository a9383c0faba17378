"""The patient of a series is corrected, or in question: no result is left standing that may be another's."""

from __future__ import annotations

import csv
import json
import os
import shutil
from contextlib import closing
from pathlib import Path

import pydicom
import pytest
from medvit_batch.cli import app
from medvit_batch.journal import Journal
from typer.testing import CliRunner

from tests.batch.archives import series_of, write_small
from tests.batch.execution.test_session import counts

WORDS = ("Secret", "Right^Person", "RIGHT-1", "4711")
TYPES = ("-ot", "dicom-seg", "--no-preview")


def _batch(*arguments: object):
    return CliRunner().invoke(app, list(map(str, arguments)))


def _correct(paths: list[Path], keep_time: bool = False, **changes: str) -> None:
    """Write other values into files, in place, as an archive does that corrects a patient."""
    for path in paths:
        before = path.stat()
        header = pydicom.dcmread(path)
        for name, value in changes.items():
            setattr(header, name, value)
        aside = path.with_suffix(".new")
        header.save_as(aside, enforce_file_format=True)
        os.replace(aside, path)
        if keep_time:
            assert path.stat().st_size == before.st_size
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _seg(out: Path) -> pydicom.Dataset:
    (path,) = (out / "cases").glob("*/*/seg.dcm")
    return pydicom.dcmread(path, stop_before_pixels=True)


def _rows(out: Path) -> list[dict[str, str]]:
    with (out / "cases.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def published(banded, tmp_path_factory) -> Path:
    """A batch of one series that is published; not to be written to."""
    top = tmp_path_factory.mktemp("corrected")
    write_small(top / "archive" / "first", 1)
    outcome = _batch("run", top / "archive", "-o", top / "out", "-b", banded, *TYPES)
    assert outcome.exit_code in (0, 3), outcome.output
    assert counts(top / "out") == {"published": 1}
    return top


@pytest.fixture
def batch(published, tmp_path) -> tuple[Path, Path]:
    """A copy of it that may be written to: the archive's paths are part of what a batch remembers, so it stays and is put back."""
    shutil.copytree(published, tmp_path / "kept")
    yield published / "archive", published / "out"
    shutil.rmtree(published)
    shutil.copytree(tmp_path / "kept", published)


def _told(out: Path, output: str) -> str:
    """Everything that others are told; it names no patient."""
    said = output + "".join((out / n).read_text() for n in ("cases.csv", "report.html", "log.jsonl"))
    journal = (out / "journal.sqlite").read_bytes()
    for word in WORDS:
        assert word not in said.replace(str(out), "")
        assert word.encode() not in journal
    return said


def test_a_corrected_patient_is_run_again_and_the_result_before_withdrawn(batch, banded):
    archive, out = batch
    with closing(Journal(out)) as journal:
        journal.base.execute(
            "CREATE TABLE IF NOT EXISTS sends (id INTEGER PRIMARY KEY, folder TEXT, run_sha256 TEXT, peer TEXT, state TEXT)"
        )
        (case,) = journal.cases()
        journal.base.execute(
            "INSERT INTO sends (folder, run_sha256, peer, state) VALUES (?,?,'PACS@here:1','sent')",
            (case["folder"], case["run_sha256"]),
        )
    _correct(sorted((archive / "first").iterdir()), keep_time=True, PatientName="Right^Person1", PatientID="RIGHT-1")
    dry = json.loads(_batch("run", archive, "-o", out, "-b", banded, *TYPES, "--dry-run", "--json").stdout)
    assert [row["action"] for row in dry["decisions"]] == ["run again"]
    outcome = _batch("run", archive, "-o", out, "-b", banded, *TYPES)
    assert outcome.exit_code == 3, outcome.output  # a peer has the earlier one
    assert (_seg(out).PatientName, _seg(out).PatientID) == ("Right^Person1", "RIGHT-1")
    said = _told(out, outcome.output)
    assert "the patient of these images was corrected; the earlier result was moved to withdrawn/" in outcome.output
    assert "The earlier result was sent to PACS@here:1: have it removed there." in _rows(out)[0]["flags"]
    assert '"event": "withdrawn"' in said
    (old,) = (out / "withdrawn").glob("*/*/seg.dcm")
    assert pydicom.dcmread(old, stop_before_pixels=True).PatientID == "ID-4711"
    (record,) = (out / "cases").glob("*/*/run.json")
    assert "The patient of these images was corrected" in record.read_text()


def test_versions_side_by_side_are_set_aside_and_run_once_one_is_gone(batch, banded):
    archive, out = batch
    shutil.copytree(archive / "first", archive / "second")
    _correct(sorted((archive / "second").iterdir()), PatientName="Right^Person", PatientID="RIGHT-1")
    outcome = _batch("run", archive, "-o", out, "-b", banded, *TYPES)
    assert outcome.exit_code == 3, outcome.output
    _told(out, outcome.output)
    (row,) = _rows(out)
    assert row["state"] == "set aside"
    assert "in two versions under the same UIDs, which differ in PatientID and PatientName" in row["reason"]
    assert "Decide which version is right" in row["reason"]
    assert "the earlier result was moved to withdrawn/" in row["remedy"]
    assert list((out / "cases").glob("*/*/seg.dcm")) == []
    assert _batch("run", archive, "-o", out, "-b", banded, *TYPES).exit_code == 3
    assert "the earlier result was moved" in _rows(out)[0]["remedy"]
    shutil.rmtree(archive / "first")
    dry = json.loads(_batch("run", archive, "-o", out, "-b", banded, *TYPES, "--dry-run", "--json").stdout)
    assert [row["action"] for row in dry["decisions"]] == ["run again"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"PatientBirthDate": "19510102"}, "PatientBirthDate"),
        ({"PatientName": "", "PatientBirthDate": ""}, "PatientName and PatientBirthDate"),
        ({"AccessionNumber": "ACC-8", "StudyDate": "20200204"}, "the study's date, number or physician"),
    ],
)
def test_a_version_in_a_zip_is_a_version_too(changes, words, batch, banded):
    archive, _ = batch
    shutil.copytree(archive / "first", archive.parent / "packed")
    _correct(sorted((archive.parent / "packed").iterdir()), **changes)
    shutil.make_archive(str(archive / "backup"), "zip", archive.parent / "packed")
    dry = _batch("run", archive, "-o", archive.parent / "other", "-b", banded, *TYPES, "--dry-run", "--json")
    rows = json.loads(dry.stdout)["decisions"]
    assert [row["action"] for row in rows] == ["set aside"] * 2
    assert all(f"in versions that differ in {words};" in row["reason"] for row in rows)


def _two_patients(top: Path, **second: str) -> dict[str, str]:
    """Series of one PatientID, with an issuer and without one."""
    write_small(top / "a", 1, IssuerOfPatientID="HOSP")
    write_small(top / "b", 2, **second)
    return {"a": series_of(top / "a"), "b": series_of(top / "b")}


@pytest.mark.parametrize(
    ("second", "options", "actions"),
    [
        ({"PatientName": "Other^Person"}, (), ["run", "set aside"]),
        ({"PatientBirthDate": "19990909"}, (), ["run", "set aside"]),
        ({"PatientName": "secret^PERSON"}, (), ["run", "run"]),
        ({"PatientName": "Other^Person", "IssuerOfPatientID": "ELSEWHERE"}, (), ["run", "run"]),
        ({"PatientName": "Other^Person"}, ("--issuer", "ELSEWHERE"), ["run", "run"]),
    ],
)
def test_one_number_with_and_without_an_issuer(second, options, actions, banded, tmp_path):
    series = _two_patients(tmp_path / "archive", **second)
    outcome = _batch(
        "run", tmp_path / "archive", "-o", tmp_path / "out", "-b", banded, *TYPES, *options, "--dry-run", "--json"
    )
    rows = {row["series"]: row for row in json.loads(outcome.stdout)["decisions"]}
    assert [rows[series[name]]["action"] for name in "ab"] == actions
    if "set aside" in actions:
        assert "with and without IssuerOfPatientID" in rows[series["b"]]["reason"]
        assert "Say with --issuer NAME" in rows[series["b"]]["reason"]


@pytest.mark.parametrize(
    ("second", "options", "action"),
    [
        ({"PatientName": "Other^Person", "PatientBirthDate": "19990909"}, ("--deidentify",), "set aside"),
        ({"PatientName": "Other^Person", "PatientBirthDate": "19990909"}, ("--deidentify", "--issuer", "HOSP"), "run"),
        (
            {"PatientName": "Other^Person", "PatientBirthDate": "19990909"},
            (),
            "run",
        ),  # each result names its own patient
        ({"PatientName": "Married^Person"}, (), "run"),
        ({"PatientBirthDate": "19500201"}, (), "run"),
        ({"PatientName": "Other^Person", "PatientBirthDate": ""}, (), "run"),
    ],
)
def test_one_number_without_any_issuer(second, options, action, banded, tmp_path):
    write_small(tmp_path / "archive" / "a", 1)
    write_small(tmp_path / "archive" / "b", 2, **second)
    if "--deidentify" in options:
        options = (*options, "--deid-key", tmp_path / "key")
    line = ("run", tmp_path / "archive", "-o", tmp_path / "out", "-b", banded, *TYPES, *options, "--dry-run", "--json")
    rows = json.loads(_batch(*line).stdout)["decisions"]
    assert [row["action"] for row in rows] == [action] * 2
    if action == "set aside":
        assert all("under different names and different birth dates" in row["reason"] for row in rows)
        assert all("Say with --issuer NAME" in row["reason"] for row in rows)


def test_a_pseudonym_is_one_for_one_patient_and_two_for_two(banded, tmp_path):
    series = _two_patients(tmp_path / "archive")
    write_small(tmp_path / "archive" / "c", 3, IssuerOfPatientID="ELSEWHERE")
    found = {}
    line = (
        "run",
        tmp_path / "archive",
        "-o",
        tmp_path / "out",
        "-b",
        banded,
        *TYPES,
        "--deidentify",
        "--deid-key",
        tmp_path / "key",
    )
    dry = json.loads(_batch(*line, "--dry-run", "--json").stdout)
    assert sorted(row["action"] for row in dry["decisions"]) == ["run", "run", "set aside"]  # b may be either's
    outcome = _batch(*line, "--issuer", "HOSP")
    assert counts(tmp_path / "out") == {"published": 3}, outcome.output
    for path in (tmp_path / "out" / "cases").glob("*/*/seg.dcm"):
        found.setdefault(str(pydicom.dcmread(path, stop_before_pixels=True).PatientID), []).append(path)
    assert sorted(map(len, found.values())) == [1, 2]
    assert len(series) == 2


def test_the_cases_from_public_reports(shared, banded, tmp_path):
    for name, actions in (("20_issuer_of_patient_id", ["run", "set aside"]), ("21_patient_corrected", ["set aside"])):
        outcome = _batch(
            "run", shared / "cases" / name, "-o", tmp_path / "out", "-b", banded, "--force", "--dry-run", "--json"
        )
        assert sorted(row["action"] for row in json.loads(outcome.stdout)["decisions"]) == actions, outcome.output
