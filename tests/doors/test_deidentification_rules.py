"""Rules of ``--deidentify``: what options keep, what the key decides, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from datetime import datetime, timedelta

import pydicom
import pytest
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, UltrasoundImageStorage

from medvit.cli import command_line_words
from medvit.deidentification import RETAINABLE, Privacy, add_images, read_key
from medvit.deidentification.headers import deidentified
from medvit.deidentification.rules_e1 import method_codes, profile
from medvit.errors import ImageError
from medvit.io.files import one_file
from tests.batch.archives import write_small
from tests.doors.test_deidentification import _MORE, _batch

pytestmark = pytest.mark.usefixtures("one_fork_server")


@pytest.mark.parametrize("retain", [(), *((name,) for name in RETAINABLE)])
def test_options_keep_what_they_say_and_no_more(retain):
    d = Dataset()
    for name, value in {
        **_MORE,
        "PatientName": "Secret^Person",
        "PatientID": "4711",
        "StudyDate": "20200203",
        "StudyTime": "101112",
    }.items():
        setattr(d, name, value)
    d.StudyInstanceUID = "1.2.3.4.5"
    privacy = Privacy(key=b"0123456789abcdef", retain=retain)
    made = deidentified(d, privacy)
    assert bool(made.get("DeviceSerialNumber") == "SERIAL-77") == ("device" in retain)
    assert made.get("InstitutionName") != "Clinic of Secret"  # kept or not, it holds the patient's name
    assert bool(made.get("InstitutionalDepartmentName") == "Radiology") == ("institution" in retain)
    assert bool(made.get("PatientAge") == "090Y") == ("characteristics" in retain)
    if "shifted-dates" in retain:
        moved = datetime.strptime("20200203", "%Y%m%d") - datetime.strptime(made.StudyDate, "%Y%m%d")
        assert timedelta(365) <= moved < timedelta(365 + 3650)
        assert (made.AcquisitionDate, made.StudyTime) == (made.StudyDate, "101112")
        other = deepcopy_with(d, StudyDate="20200213")
        apart = datetime.strptime(deidentified(other, privacy).StudyDate, "%Y%m%d") - datetime.strptime(
            made.StudyDate, "%Y%m%d"
        )
        assert apart == timedelta(10)
    else:
        assert not made.StudyDate and not made.StudyTime
    assert [i.CodeValue for i in made.DeidentificationMethodCodeSequence] == [code for code, _ in method_codes(retain)]
    assert "FilterType" not in made  # no attribute of the table, but a name is in it
    assert made.BodyPartExamined == "NECK"


def deepcopy_with(d: Dataset, **changes: object) -> Dataset:
    import copy

    other = copy.deepcopy(d)
    for name, value in changes.items():
        setattr(other, name, value)
    return other


def test_keys_decide_what_stands_for_what(tmp_path):
    one, two = Privacy(key=b"0123456789abcdef"), Privacy(key=b"fedcba9876543210")
    assert one.uid("1.2.3.4") == one.uid("1.2.3.4") != two.uid("1.2.3.4")
    assert len(one.uid("1.2.3.4")) <= 64 and pydicom.uid.UID(one.uid("1.2.3.4")).is_valid
    assert one.uid("1.2.840.10008.1.2") == "1.2.840.10008.1.2"
    assert (one.uid(""), one.uid("../../up")) == ("", "")
    assert one.words("series 1.2.3.4.5.6 of 20200203, AcquisitionTime 101112") == (
        f"series {one.uid('1.2.3.4.5.6')} of (a date), AcquisitionTime (left out)"
    )
    assert "0123456789abcdef" not in repr(one)
    key, made = read_key(tmp_path / "new.key", make=True)
    assert made and read_key(tmp_path / "new.key", make=True) == (key, False)


def test_the_table_is_the_standards():
    """Every attribute of the table that pydicom knows has one of the profile's actions; those that name people are among them."""
    table = profile()
    assert len(table) > 600
    for keyword in ("PatientName", "PatientID", "StudyInstanceUID", "InstitutionName", "StudyDate", "OperatorsName"):
        assert tag_for_keyword(keyword) in table
    assert all(rule.action() in "XZDU" for rule in table.values())
    assert all(
        table[tag].action() == "U"
        for tag in table
        if tag < 0x00100000 and _vr(tag) == "UI" and "U" in table[tag].actions
    )


def _vr(tag: int) -> str:
    try:
        return dictionary_VR(tag)
    except KeyError:
        return ""


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("class", r"^Found images without a SOPClassUID or SOPInstanceUID; .*Leave --with-images out for this series\.$"),
        ("overlay", r"^Found overlays within the pixels, whose text may name the patient"),
    ],
)  # fmt: skip
def test_images_that_cannot_be_copied_are_refused(fault, message, tmp_path):
    (path, *_) = write_small(tmp_path / "sent", 1)
    d = pydicom.dcmread(path)
    if fault == "overlay":
        d.add_new(0x60000102, "US", 12)
    else:
        d.SOPClassUID = ""
    d.file_meta.MediaStorageSOPClassUID = CTImageStorage
    pydicom.dcmwrite(path, d)
    (tmp_path / "case").mkdir()
    (tmp_path / "case" / "run.json").write_text('{"files": {}}')
    with pytest.raises(ImageError) as refused:
        add_images(tmp_path / "case", [one_file(path)], Privacy(key=b"0123456789abcdef"))
    assert re.search(message, refused.value.sentence(command_line_words))
    assert "Leave medvit.deidentification.add_images() out for this series." in str(refused.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--deidentify",), "Found --deidentify without --deid-key"),
        (("--retain", "device"), "without --deidentify; they apply to de-identification only"),
        (
            ("--deidentify", "--deid-key", "KEY", "--retain", "names"),
            "Found --retain names; it must be one of shifted-dates",
        ),
        (("--deidentify", "--deid-key", "SHORT"), "Found a key of 3 bytes; at least 16"),
        (("--deidentify", "--deid-key", "FOLDER"), "Found a key that cannot be read"),
    ],
)
def test_mistakes_are_told(arguments, message, banded, tmp_path):
    archive = tmp_path / "archive"
    write_small(archive, 1)
    (tmp_path / "short").write_text("abc")
    places = {"KEY": tmp_path / "key", "SHORT": tmp_path / "short", "FOLDER": tmp_path}
    outcome = _batch("run", archive, "-o", tmp_path / "out", "-b", banded, *(places.get(a, a) for a in arguments))
    assert outcome.exit_code == 2
    assert message in " ".join(outcome.output.split())
    assert not (tmp_path / "out").exists()


def test_an_ultrasound_is_refused_unless_it_says_that_nothing_is_burned_in(banded, tmp_path):
    key = tmp_path / "project.key"
    write_small(tmp_path / "archive", 1, Modality="US", SOPClassUID=UltrasoundImageStorage)
    line = ["run", tmp_path / "archive", "-o", tmp_path / "out", "-b", banded, "--force", "--dry-run", "--json"]
    reasons = {d["reason"] for d in json.loads(_batch(*line, "--deidentify", "--deid-key", key).stdout)["decisions"]}
    assert any("do not say whether words are burned into them" in reason for reason in reasons)
    shutil.rmtree(tmp_path / "archive")
