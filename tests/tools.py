"""Programs that nobody here wrote, which judge what is written. Where one is missing, its test skips and says so."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_FROM = {
    "segimage2itkimage": "pip install dcmqi",
    "itkimage2segimage": "pip install dcmqi",
    "tid1500reader": "pip install dcmqi",
    "dciodvfy": "Debian package dicom3tools",
    "dcentvfy": "Debian package dicom3tools",
    "dsrdump": "Debian package dcmtk",
    "dsr2html": "Debian package dcmtk",
    "storescu": "Debian package dcmtk",
    "dcmj2pnm": "Debian package dcmtk",
    "dcmcjpeg": "Debian package dcmtk",
    "dcmcrle": "Debian package dcmtk",
    "Orthanc": "Debian package orthanc",
    "storescp": "Debian package dcmtk",
    "echoscu": "Debian package dcmtk",
    "openssl": "Debian package openssl",
}


def program(name: str) -> str:
    """The program's path, from PATH or from beside the Python that runs the tests, or a skip."""
    beside = Path(sys.executable).with_name(name)
    found = shutil.which(name) or (str(beside) if beside.exists() else None)
    if found is None:
        pytest.skip(f"{name} is not installed ({_FROM[name]})")
    return found


def complaints(path: Path) -> list[str]:
    """Errors that dciodvfy finds in a file."""
    outcome = subprocess.run([program("dciodvfy"), "-new", str(path)], capture_output=True, text=True, errors="replace")
    found = [line for line in (outcome.stdout + outcome.stderr).splitlines() if line.startswith("Error")]
    return found or ([f"exit code {outcome.returncode}"] if outcome.returncode else [])
