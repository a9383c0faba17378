"""Sizes judged from headers before anything is unpacked: every format and door, each with its size, limit and step."""

from __future__ import annotations

import gzip
import re
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless
from typer.testing import CliRunner

import medvit
from medvit.cli.main import app
from medvit.errors import MedvitError
from tests.bands import oblique_affine, phantom, write_series

HUGE = (2000, 2000, 2000)
"""Voxels that take 32 GB as float32."""


def nifti_bomb(path: Path, shape: tuple[int, ...] = HUGE, offset: int = 352) -> Path:
    """A gzipped NIfTI of a few bytes whose header promises ``shape``, or extensions up to ``offset``."""
    header = nib.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape(shape)
    header["vox_offset"], header["magic"] = offset, b"n+1\0"
    with gzip.open(path, "wb") as file:
        file.write(header.binaryblock + bytes(4096))
    return path


def _nrrd(path: Path) -> Path:
    sides = " ".join(map(str, HUGE))
    path.write_text(f"NRRD0004\ntype: uchar\ndimension: 3\nsizes: {sides}\nencoding: gzip\n\n")
    return path


def _metaimage(path: Path) -> Path:
    sides = " ".join(map(str, HUGE))
    path.write_text(
        f"ObjectType = Image\nNDims = 3\nDimSize = {sides}\nElementType = MET_UCHAR\nCompressedData = True\nElementDataFile = LOCAL\n"
    )
    return path


def _png(path: Path, side: int = 50_000) -> Path:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    )
    return path


def _jpeg(path: Path, side: int = 50_000) -> Path:
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(path, "JPEG")
    content = path.read_bytes()
    at = content.index(b"\xff\xc0") + 5
    path.write_bytes(content[:at] + struct.pack(">HH", side, side) + content[at + 4 :])
    return path


def _zip(path: Path) -> Path:
    """A zip of a NIfTI that is not compressed itself: the archive's list promises its size."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("scan.nii", bytes(2**22))
    content = bytearray(path.read_bytes())
    for mark, at in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        place = content.index(mark) + at
        content[place : place + 4] = struct.pack("<I", 2**32 - 2)
    path.write_bytes(content)
    return path


FILES = {
    "scan.nii.gz": nifti_bomb, "scan.nrrd": _nrrd, "scan.mha": _metaimage, "picture.png": _png, "picture.jpg": _jpeg, "scan.zip": _zip,
}  # fmt: skip


def _refused(*told: str) -> str:
    outcome = CliRunner().invoke(app, list(told))
    assert outcome.exit_code == 1, outcome.output
    assert "Traceback" not in outcome.output
    return " ".join(outcome.output.split())


@pytest.mark.parametrize("name", FILES)
def test_every_format_is_refused_by_its_header_with_size_limit_and_step(name, tmp_path, monkeypatch):
    source = FILES[name](tmp_path / name)
    said = _refused("inspect", str(source), "--memory-limit", "4GB")
    size = {"scan.zip": r"4\.3", "picture.png": r"30\.0", "picture.jpg": r"30\.0"}.get(name, r"32\.0")
    assert re.search(rf"which takes {size} GB of memory; the limit is 4\.0 GB\. .* --memory-limit \d+\.\dGB", said), (
        said
    )
    monkeypatch.setenv("MEDVIT_MEMORY_LIMIT", "4GB")
    with pytest.raises(MedvitError, match=f"which takes {size} GB of memory"):
        medvit.open_source(source)


def test_several_values_a_voxel_count_for_each_command(tmp_path):
    """Layers of 3D Slicer's overlapping segments are read by a reader of their own."""
    sides = " ".join(map(str, HUGE))
    (tmp_path / "layers.seg.nrrd").write_text(
        f"NRRD0004\ntype: uchar\ndimension: 4\nspace: left-posterior-superior\nsizes: 3 {sides}\nspace directions: none (1,0,0) "
        "(0,1,0) (0,0,1)\nkinds: list domain domain domain\nencoding: gzip\nspace origin: (0,0,0)\nSegment0_LabelValue:=1\n\n"
    )
    for told in (("inspect",), ("convert", "-o", str(tmp_path / "out"))):
        said = _refused(told[0], str(tmp_path / "layers.seg.nrrd"), *told[1:], "--memory-limit", "4GB")
        assert "takes 96.0 GB of memory; the limit is 4.0 GB" in said


def test_extensions_before_the_voxels_count(tmp_path):
    source = nifti_bomb(tmp_path / "scan.nii.gz", (4, 4, 4), offset=2**31)
    assert "takes 2.1 GB" in _refused("inspect", str(source), "--memory-limit", "1GB")


@pytest.mark.skipif(
    not Path("/proc/self/status").is_file(), reason="this system does not state a process's largest memory"
)
def test_a_bomb_costs_no_memory_and_the_default_limit_is_a_quarter_of_the_machine(tmp_path):
    source = nifti_bomb(tmp_path / "scan.nii.gz", (8000, 8000, 8000))
    program = (
        "import re, sys; from medvit.cli.main import app\n"
        "try: app(['inspect', sys.argv[1]])\n"
        "finally: print(re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())[1])"
    )
    done = subprocess.run([sys.executable, "-c", program, str(source)], capture_output=True, text=True)
    assert done.returncode == 1
    assert "takes 2.0 TB of memory" in done.stderr
    assert "a quarter of the memory here" in done.stderr
    assert int(done.stdout) < 2**20  # kilobytes: what is loaded, and nothing of the image


@pytest.mark.parametrize("door", ["segment", "restore", "convert", "drr", "reconstruct", "batch"])
def test_every_command_takes_the_limit(door, tmp_path, banded):
    scan = tmp_path / "studies" / "scan.nii.gz"
    scan.parent.mkdir()
    volume = phantom()[0].astype(np.float32)
    nib.save(nib.Nifti1Image(volume, oblique_affine()), scan)
    out, limit = str(tmp_path / "out"), ("--memory-limit", "30kB")
    if door == "batch":
        told = ("batch", "run", str(scan.parent), "-o", out, "-b", str(banded), *limit)
        outcome = CliRunner().invoke(app, list(told))
        assert outcome.exit_code == 3, outcome.output
        assert "the limit is 30.0 kB" in (tmp_path / "out" / "cases.csv").read_text()
        return
    told = {
        "segment": ("segment", str(scan), "-b", str(banded), "-o", out),
        "restore": ("restore", str(scan), "-o", out),
        "convert": ("convert", str(scan), "-o", out),
        "drr": ("drr", str(scan), "-o", out),
        "reconstruct": ("reconstruct", "--ap", str(scan), "--lat", str(scan), "-o", out),
    }[door]
    said = _refused(*told, *limit)
    assert "the limit is 30.0 kB" in said
    assert not Path(out).exists()


def test_the_limit_comes_from_the_environment_and_ends_with_the_command(tmp_path, monkeypatch):
    scan = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(phantom()[0].astype(np.float32), oblique_affine()), scan)
    assert "the limit is 1.0 kB" in _refused("inspect", str(scan), "--memory-limit", "1kB")
    assert CliRunner().invoke(app, ["inspect", str(scan)]).exit_code == 0
    monkeypatch.setenv("MEDVIT_MEMORY_LIMIT", "2 KiB")
    assert "the limit is 2.0 kB" in _refused("inspect", str(scan))
    assert CliRunner().invoke(app, ["inspect", str(scan), "--memory-limit", "1GB"]).exit_code == 0
    monkeypatch.setenv("MEDVIT_MEMORY_LIMIT", "plenty")
    assert "Found the memory limit 'plenty'; a size above zero is needed. Write it as 4GB" in _refused(
        "inspect", str(scan)
    )
    for wrong in ("4XB", "0", "-1GB"):
        outcome = CliRunner().invoke(app, ["inspect", str(scan), f"--memory-limit={wrong}"])
        assert outcome.exit_code == 2
        assert "above zero is needed" in " ".join(outcome.output.replace("│", " ").split())


@pytest.mark.parametrize(("size", "code"), [("2e5", 0), ("0.2 MB", 0), ("1e5", 1), ("9" * 400, 2), ("1e99", 0)])
def test_odd_spellings_of_a_size_are_taken_or_refused(size, code, tmp_path, monkeypatch):
    scan = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(phantom()[0].astype(np.float32), oblique_affine()), scan)  # 176 kB
    assert CliRunner().invoke(app, ["inspect", str(scan), f"--memory-limit={size}"]).exit_code == code
    monkeypatch.setenv("MEDVIT_MEMORY_LIMIT", size)
    outcome = CliRunner().invoke(app, ["inspect", str(scan)])
    assert outcome.exit_code == min(code, 1)
    if code == 2:  # a broken variable is named, and never passed over
        assert "set by the environment variable MEDVIT_MEMORY_LIMIT" in outcome.stderr


def test_a_large_picture_is_judged_by_the_limit_alone(tmp_path):
    """Pillow's own limit, 179 million pixels, is lower: it would refuse what the user allows, and warn of an attack."""
    told = ("inspect", str(_png(tmp_path / "picture.png", side=14_000)), "--memory-limit", "20GB")
    said = _refused(*told)  # this one's pixels are cut off
    assert "attack" not in said and "exceeds limit" not in said
    start = _jpeg(tmp_path / "picture.jpg").read_bytes()
    profile = b"".join(b"\xff\xe2" + struct.pack(">H", 65535) + bytes(65533) for _ in range(17))
    (tmp_path / "deep.jpg").write_bytes(start[:2] + profile + start[2:])  # its size lies behind the first megabyte
    assert "takes 30.0 GB of memory; the limit is 4.0 GB" in _refused(
        "inspect", str(tmp_path / "deep.jpg"), "--memory-limit", "4GB"
    )


def _series(folder: Path) -> list[Path]:
    return write_series(folder, phantom((20, 18, 12))[0], np.diag([-1.0, -1.0, 2.0, 1.0]))


def test_a_dicom_series_is_judged_by_its_rows_columns_and_slices(tmp_path):
    _series(tmp_path / "series")
    told = ("segment", str(tmp_path / "series"), "-o", str(tmp_path / "out"))
    said = _refused(*told, "--memory-limit", "10kB")
    assert "Found a DICOM image of 20 x 18 x 12 voxels" in said or "Found a DICOM image of 18 x 20 x 12 voxels" in said
    assert "takes 17.3 kB of memory" in said


def test_compressed_pixels_that_promise_another_size_are_refused(tmp_path):
    path = _series(tmp_path / "series")[0]
    dataset = pydicom.dcmread(path)
    side = 60_000
    size = struct.pack(">HHIIIIIIIIH", 41, 0, side, side, 0, 0, side, side, 0, 0, 1)
    codestream = b"\xff\x4f\xff\x51" + size + b"\x0f\x01\x01"
    dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
    dataset.PixelData = encapsulate([codestream])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path)
    with pytest.raises(
        MedvitError, match=r"compressed pixels of 60000 x 60000; 18 x 20 is stated|60000; 20 x 18 is stated"
    ):
        medvit.open_source(tmp_path / "series")


def _deflated(path: Path, unpacked: int) -> Path:
    """A series' first slice, deflated, with so many zeros in a private element behind its pixels."""
    dataset = pydicom.dcmread(_series(path.parent / "one")[0])
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    dataset.add_new(0x7FE10010, "LO", "x")
    dataset.add_new(0x7FE11001, "OB", bytes(unpacked))
    dataset.save_as(path)
    return path


def test_a_deflated_label_object_is_counted_before_it_is_unpacked(tmp_path):
    source = _deflated(tmp_path / "bomb.dcm", 2**24)
    said = _refused("convert", str(source), "-o", str(tmp_path / "out"), "--memory-limit", "20MB")
    assert "a deflated DICOM file that unpacks to more than 6.7 MB" in said
    assert "Do not trust this file" in said
    assert "deflated" not in CliRunner().invoke(app, ["convert", str(source), "-o", str(tmp_path / "out")]).output


def test_readers_of_others_agree_on_what_the_headers_say(tmp_path):
    assert nib.load(nifti_bomb(tmp_path / "scan.nii.gz")).shape == HUGE
    for name in ("scan.nrrd", "scan.mha"):
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(FILES[name](tmp_path / name)))
        reader.ReadImageInformation()
        assert reader.GetSize() == HUGE
    with pytest.raises(Image.DecompressionBombError, match="2500000000 pixels"):
        Image.open(_png(tmp_path / "picture.png"))
