"""The quick reading of headers gives pydicom's values, also of mutated and nested headers."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileMetaDataset

from medvit.errors import MedvitError
from medvit.io import open_source
from medvit.io.dicom.header import parser as elements
from medvit.io.dicom.header import read as headers
from tests.bands import oblique_affine, write_series
from tests.io.dicom.volumes import AXIAL, SMALL

# the quick reader of headers


def _read(content: bytes, tmp_path: Path) -> object:
    path = tmp_path / "x.dcm"
    path.write_bytes(content)
    try:
        with path.open("rb") as stream:
            return elements.read_elements(stream, stream.read(4096), headers._WANTED)
    except Exception as error:
        return type(error).__name__


def _nested(levels: int, undefined: bool) -> bytes:
    inner = b""
    for _ in range(levels):
        if undefined:
            inner = b"\xfe\xff\x00\xe0\xff\xff\xff\xff" + inner + b"\xfe\xff\x0d\xe0\0\0\0\0"
            inner = b"\x08\x00\x40\x11SQ\x00\x00\xff\xff\xff\xff" + inner + b"\xfe\xff\xdd\xe0\0\0\0\0"
        else:
            inner = b"\xfe\xff\x00\xe0" + struct.pack("<L", len(inner)) + inner
            inner = b"\x08\x00\x40\x11SQ\x00\x00" + struct.pack("<L", len(inner)) + inner
    return inner


@pytest.mark.parametrize("kind", ["plain", "nested", "defined", "private", "implicit", "deflated", "cut"])
def test_quick_values_are_those_of_pydicom(kind, tmp_path, monkeypatch):
    path = write_series(tmp_path / "s", SMALL[:, :, :1], oblique_affine(), DiffusionBValue=1000.0, EchoTime="4.6")[0]
    dataset = pydicom.dcmread(path)
    if kind == "private":
        dataset.add_new(0x00090010, "LO", "x")
        dataset.add_new(0x00091001, "OB", bytes(50_000))  # the header goes on behind the first bytes read
        dataset.save_as(path)
    elif kind in ("implicit", "deflated"):
        syntax = "" if kind == "implicit" else ".1.99"
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2" + syntax
        dataset.file_meta.MediaStorageSOPClassUID, dataset.file_meta.MediaStorageSOPInstanceUID = "1.2", "1.3"
        dataset.save_as(path, implicit_vr=kind == "implicit", enforce_file_format=True)
    content = path.read_bytes()
    if kind in ("nested", "defined"):
        at = content.index(b"\x08\x00\x90\x00PN")
        content = content[:at] + _nested(20, kind == "nested") + content[at:]
    if kind == "cut":
        content = content[: content.index(b"\x20\x00\x32\x00DS") + 14]
    quick = _read(content, tmp_path)
    monkeypatch.setattr(elements, "_plain", lambda *_a, **_k: (_ for _ in ()).throw(elements._UnusualError))
    slow = _read(content, tmp_path)
    if isinstance(slow, str):
        assert quick == slow
        return
    assert {k: v for k, v in quick.values.items() if v} == {k: v for k, v in slow.values.items() if v}
    assert quick.syntax == slow.syntax
    assert quick.end == slow.end or kind == "deflated"
    assert quick.values[0x00189087] == 1000.0


def test_quick_values_of_mutated_headers_are_those_of_pydicom(tmp_path, monkeypatch):
    """Whatever a header is: the two readers give the same, or the quick one leaves it to the other."""
    path = write_series(tmp_path / "s", SMALL[:, :, :1], oblique_affine())[0]
    original, rng = path.read_bytes(), np.random.default_rng(3)
    cases = []
    for _ in range(150):
        content = bytearray(original)
        for _ in range(int(rng.integers(1, 4))):
            content[int(rng.integers(132, 1100))] = int(rng.integers(256))
        cases.append(bytes(content))
    quick = [_read(content, tmp_path) for content in cases]
    monkeypatch.setattr(elements, "_plain", lambda *_a, **_k: (_ for _ in ()).throw(elements._UnusualError))
    slow = [_read(content, tmp_path) for content in cases]
    agreed = [
        q == s if isinstance(s, str) else not isinstance(q, str) and {k: v for k, v in q.values.items() if v} == {k: v for k, v in s.values.items() if v}
        for q, s in zip(quick, slow, strict=True)
    ]  # fmt: skip
    # pydicom gives up on some values that no one asked for; stepping over them is no harm
    assert all(a or isinstance(s, str) for a, s in zip(agreed, slow, strict=True))
    assert sum(agreed) > 120


def test_deep_sequences_behind_the_pixel_group_are_named(tmp_path):
    for path in write_series(tmp_path, SMALL, AXIAL):
        content = path.read_bytes()
        at = content.index(b"\xe0\x7f\x10\x00OW")
        path.write_bytes(content[:at] + b"\x40\x00\x75\x02" + _nested(1000, True)[4:] + content[at:])
    with pytest.raises(MedvitError, match="its sequences are nested too deep"):
        open_source(tmp_path)
