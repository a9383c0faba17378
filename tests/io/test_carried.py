"""What objects carry over from their source: names in any script, odd values, and nothing printed on the way."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pydicom
import pytest

import medvit
from medvit.io.carried import carry_over, character_set
from tests.bands import oblique_affine, phantom, write_series

TYPES = ("dicom-seg", "rtstruct", "sr", "sc")
OBJECTS = ("seg.dcm", "rtstruct.dcm", "sr.dcm", "sc/0001.dcm")

NAMES = {
    "none": (None, "Doe^John", None),
    "empty": ("", "Doe^John", None),
    "Latin 1": ("ISO_IR 100", "Müller^Jörg", "ISO_IR 100"),
    "Arabic": ("ISO_IR 127", "قباني^لنزار", "ISO_IR 127"),
    "Cyrillic": ("ISO_IR 144", "Люкceмбypг", "ISO_IR 144"),  # noqa: RUF001
    "UTF-8": ("ISO_IR 192", "Yamada^Tarou=山田^太郎=やまだ^たろう", "ISO_IR 192"),
    "Japanese": (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう", ["ISO 2022 IR 6", "ISO 2022 IR 87"]),
    "Japanese, half width": (
        ["ISO 2022 IR 13", "ISO 2022 IR 87"],
        "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう",
        ["ISO 2022 IR 13", "ISO 2022 IR 87"],
    ),
    "Korean": (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동", ["ISO 2022 IR 6", "ISO 2022 IR 149"]),
    "Korean, alone": ("ISO 2022 IR 149", "Hong^Gildong=홍^길동", ["ISO 2022 IR 6", "ISO 2022 IR 149"]),
    "GBK": ("GBK", "Wang^XiaoDong=王^小东", "GB18030"),
    "Latin 1, extended, alone": ("ISO 2022 IR 100", "Müller^Jörg", "ISO_IR 100"),
}


def _errors(path: Path) -> list[str]:
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy is not installed (Debian package dicom3tools)")
    outcome = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True, errors="replace")
    return [line for line in (outcome.stdout + outcome.stderr).splitlines() if line.startswith("Error")]


def _objects(place: Path, bundle: Path, **changes: object) -> list[Path]:
    write_series(place / "series", phantom()[0], oblique_affine(), **changes)
    saved = medvit.segment(place / "series", bundle=bundle).save(place / "out", TYPES)
    assert not saved.set_aside
    return [place / "out" / name for name in OBJECTS]


@pytest.mark.parametrize("case", NAMES)
def test_names_survive_in_their_script(case, banded, tmp_path):
    terms, name, stated = NAMES[case]
    changes = {} if terms is None else {"SpecificCharacterSet": terms}
    for path in _objects(tmp_path, banded, **changes, PatientName=name):
        dataset = pydicom.dcmread(path)
        assert str(dataset.PatientName) == name, path.name
        assert dataset.get("SpecificCharacterSet") == stated, path.name
        assert not _errors(path), path.name


@pytest.mark.parametrize("terms", [None, "nonsense", "ISO_IR 999"])
def test_bytes_of_an_unstated_or_unknown_set_survive(terms, banded, tmp_path):
    """Nobody can know what they mean, but the objects say the same as the source and are valid."""
    place = tmp_path / "series"
    for path in write_series(place, phantom()[0], oblique_affine(), PatientName="XXXXXXX"):
        content = path.read_bytes().replace(b"XXXXXXX", b"M\xfcller ")
        path.write_bytes(content)
        if terms:
            dataset = pydicom.dcmread(path)
            dataset.SpecificCharacterSet = terms
            dataset.save_as(path)
    medvit.segment(place, bundle=banded).save(tmp_path / "out", TYPES)
    for name in OBJECTS:
        assert b"M\xfcller" in (tmp_path / "out" / name).read_bytes()
        assert str(pydicom.dcmread(tmp_path / "out" / name).PatientName).strip() == "Müller"
        assert not _errors(tmp_path / "out" / name)


def test_a_set_that_pydicom_cannot_read_keeps_its_bytes():
    header = pydicom.Dataset()
    header.SpecificCharacterSet = ["", "ISO 2022 IR 58"]
    assert character_set(header) == ["ISO 2022 IR 6", "ISO 2022 IR 58"]
    header.SpecificCharacterSet = ["ISO_IR 192", "ISO 2022 IR 87"]
    assert character_set(header) == ["ISO_IR 192"]


def test_odd_values_of_archives_are_carried_over_as_they_are(banded, tmp_path):
    odd = {"PatientSex": "X", "PatientBirthDate": "1950", "PatientName": "OnlyOnePart", "StudyDate": "20200231"}
    for path in _objects(tmp_path, banded, **odd, PatientIdentityRemoved="YES"):
        dataset = pydicom.dcmread(path)
        assert {keyword: str(dataset.get(keyword)) for keyword in odd} == odd, path.name
        assert dataset.PatientIdentityRemoved == "YES"


def test_no_name_is_printed_or_logged(banded, tmp_path, capfd, recwarn, caplog):
    _objects(tmp_path, banded, PatientName="Singular", ReferringPhysicianName="Doctor")
    printed = capfd.readouterr()
    said = printed.out + printed.err + caplog.text + " ".join(str(w.message) for w in recwarn)
    assert "Singular" not in said
    assert "Doctor" not in said


def test_an_age_that_is_none_is_not_passed_on():
    for age, kept in (("0Y", False), ("045Y", True), ("", False)):
        source, target = pydicom.Dataset(), pydicom.Dataset()
        source.add_new("PatientAge", "AS", age)
        carry_over(target, source)
        assert ("PatientAge" in target) == kept
