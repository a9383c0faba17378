"""Links in a circle, archives within a source, deflated files and discs of many names."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import pydicom
import pytest

from medvit.errors import SourceError
from medvit.io import open_source
from medvit.io.dicom.header import parser as elements
from medvit.io.files import folder_files
from tests.bands import write_series
from tests.io.dicom.preflight.test_kinds_of_image import _dicomdir
from tests.io.dicom.volumes import AXIAL, SMALL

# files


def test_links_round_in_a_circle_and_names_that_are_no_text(tmp_path):
    write_series(tmp_path / "s", SMALL, AXIAL)
    (tmp_path / "s" / "loop").symlink_to(tmp_path / "s" / "loop")
    (tmp_path / "s" / "back").symlink_to(tmp_path / "s")
    (tmp_path / "s" / "gone").symlink_to("/nowhere")
    assert open_source(tmp_path / "s").array.shape[-1] == 12
    with open(bytes(tmp_path / "s") + b"/\xff\x1b[31m.dcm", "wb") as file:
        file.write(bytes(128) + b"DICM" + bytes(100))
    names = [f.name for f in folder_files(tmp_path / "s")]
    assert "<dcff><1b>[31m.dcm" in names
    assert all(name.isprintable() for name in names)
    with pytest.raises(SourceError, match="damaged in its header"):
        open_source(tmp_path / "s")


def test_an_archive_within_a_source_is_named(tmp_path):
    write_series(tmp_path / "s", SMALL[:, :, 4:6], AXIAL)
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        archive.write(next((tmp_path / "s").iterdir()), "a.dcm")
    with zipfile.ZipFile(tmp_path / "out.zip", "w") as archive:
        archive.write(tmp_path / "in.zip", "in.zip")
    with pytest.raises(SourceError, match=r"no DICOM images.*It holds the archive in\.zip: unpack it"):
        open_source(tmp_path / "out.zip")
    shutil.copy(tmp_path / "in.zip", tmp_path / "s" / "in.zip")
    assert any("1 of them are archives, which were not opened" in note for note in open_source(tmp_path / "s").notes)


@pytest.mark.parametrize("header", [True, False])
def test_a_deflated_file_that_unpacks_to_gigabytes(header, tmp_path, monkeypatch):
    path = write_series(tmp_path, SMALL[:, :, 5:6], AXIAL)[0]
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    dataset.save_as(path)
    assert open_source(path).array.shape == (1, 20, 18, 1)
    group = 0x00090000 if header else 0x00990000
    dataset.add_new(group | 0x10, "LO", "x")
    dataset.add_new(group | 0x1001, "OB", bytes(2**20))
    monkeypatch.setattr(elements, "_MOST_UNPACKED", 2**19)
    monkeypatch.setattr("medvit.io.dicom.pixels.stored_pixels._BESIDE_PIXELS", 2**19)
    dataset.save_as(path)
    words = "it unpacks to more than any header" if header else "a deflated file that unpacks to more than 0 MiB"
    with pytest.raises(SourceError, match=words):
        open_source(path)


def test_a_disc_of_many_lower_case_names_is_listed_once_a_folder(tmp_path, monkeypatch):
    paths = write_series(tmp_path / "images", SMALL, AXIAL)
    directory = _dicomdir(tmp_path, [["IMAGES", path.name.upper()] for path in paths])
    listed = []
    walked = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda self: listed.append(self) or walked(self))
    assert open_source(directory).array.shape[-1] == 12
    assert len(listed) == len(set(listed))
