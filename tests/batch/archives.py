"""Archives as hospitals have them: good series, bad ones, and everything else that collects in folders."""

from __future__ import annotations

import os
import re
import shutil
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom

from tests.bands import oblique_affine, phantom, write_series

IDENTIFYING = ("Secret", "Person", "4711", "19500102", "20200203", "101112", "ACC-9")
"""What ``write_series`` and the names below put into headers and paths, and nobody else may see."""

SMALL = (24, 20, 8)


def without_numbers(content: bytes) -> bytes:
    """Content without hashes and UIDs, in which four digits of a patient's number stand by chance now and then."""
    return re.sub(rb"[0-9a-f]{32,}|[0-9.]{16,}", b"", content)


def series_of(folder: Path) -> str:
    """SeriesInstanceUID of the first readable file of a folder."""
    return str(pydicom.dcmread(next(p for p in sorted(folder.iterdir()) if p.stat().st_size > 200)).SeriesInstanceUID)


def write_small(folder: Path, seed: int, **changes: object) -> list[Path]:
    """A series of a few small slices; another seed, other voxels."""
    return write_series(folder, _small(seed), oblique_affine(), **changes)


def _small(seed: int) -> np.ndarray:
    values = phantom(SMALL)[0]
    values[2 + seed % 20, 2, 2] = 400
    return values


@dataclass(frozen=True)
class Mixed:
    """A mixed archive, and the series that must be published and those that must be set aside, by what is wrong."""

    folder: Path
    good: dict[str, str]
    bad: dict[str, str]


def make_mixed(top: Path) -> Mixed:
    """Write one."""
    home = top / "Secret^Person"
    whole = write_series(home / "whole", phantom()[0], oblique_affine())
    shutil.copytree(home / "whole", top / "again" / "copy of whole")
    with zipfile.ZipFile(top / "whole.zip", "w") as packed:
        for path in whole:
            packed.write(path, f"CD/{path.name}")
    write_small(top / "zipped", 1)
    with zipfile.ZipFile(top / "Secret Person.zip", "w") as packed:
        for path in (top / "zipped").iterdir():
            packed.write(path, path.name)
    good = {"whole": series_of(home / "whole"), "zipped": series_of(top / "zipped")}
    shutil.rmtree(top / "zipped")
    write_small(top / "漢字 ñ\n", 2)
    good["odd name"] = series_of(top / "漢字 ñ\n")
    bad = _bad(top)
    nib.save(nib.Nifti1Image(_small(11), oblique_affine()), top / "Secret^Person 4711.nii.gz")
    write_small(top / "scout", 9, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    (home / "whole" / "noise").write_bytes(np.random.default_rng(1).bytes(5000))
    (top / "empty.dcm").touch()
    (top / "broken.zip").write_bytes(b"PK\x03\x04" + bytes(100))
    (top / "round").symlink_to(top, target_is_directory=True)
    with open(os.fsencode(top) + b"/\xff\xfeSecret", "wb") as file:
        file.write(b"x" * 300)
    closed = top / "closed"
    write_small(closed, 3) if os.geteuid() else closed.mkdir()
    closed.chmod(0)  # root reads it all the same
    return Mixed(top, good, bad)


def _bad(top: Path) -> dict[str, str]:
    write_small(top / "mr", 4, Modality="MR")
    paths = write_small(top / "cut", 5)
    paths[3].write_bytes(paths[3].read_bytes()[:-200])
    paths = write_small(top / "zero bytes", 6)
    paths[4].write_bytes(b"")
    paths = write_small(top / "wrong VR", 7)
    content = paths[2].read_bytes()
    at = content.index(b"\x28\x00\x10\x00US")
    paths[2].write_bytes(content[:at] + b"\x28\x00\x10\x00DS\x06\x00Secret" + content[at + 10 :])
    paths = write_small(top / "header cut", 10)
    content = paths[2].read_bytes()
    paths[2].write_bytes(content[: content.index(b"\x20\x00\x32\x00")])
    for path in write_small(top / "patient one", 8):
        (top / "patient two").mkdir(exist_ok=True)
        twin = pydicom.dcmread(path)
        twin.PatientID, twin.PixelData = "4711-B", bytes(len(twin.PixelData))
        twin.save_as(top / "patient two" / path.name, enforce_file_format=True)
    expected = {
        "mr": "modality MR, where banded is made for CT",
        "cut": "whose pixels cannot be read: the file is cut off",
        "zero bytes": "missing",
        "wrong VR": "a DICOM file damaged in its header",
        "header cut": "a DICOM file damaged in its header",
        "patient one": "several patients under one SeriesInstanceUID",
    }
    return {series_of(top / name): why for name, why in expected.items()}


def command(*arguments: object) -> tuple[list[str], dict[str, str]]:
    """Return the command that runs ``medvit batch`` without an installation, and its environment."""
    program = "from medvit_batch.cli import app; app()"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    return [sys.executable, "-c", program, *map(str, arguments)], env
