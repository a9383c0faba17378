"""Fixtures of the tests beside this file."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import pytest

import medvit
from medvit.io import open_source
from tests.bands import phantom, write_series
from tests.io.labels.rtstruct_reader.structure_sets import AFFINE


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """An oblique series, its labels, and the RTSTRUCT medvit makes of them."""
    folder = tmp_path_factory.mktemp("rt")
    write_series(folder / "ct", phantom()[0], AFFINE)
    nib.save(nib.Nifti1Image(phantom()[1], AFFINE), folder / "phantom.nii.gz")
    medvit.convert(folder / "phantom.nii.gz", folder / "out", output_types=("rtstruct",), like=folder / "ct")
    return folder


@pytest.fixture(scope="module")
def scan(place):
    return open_source(place / "ct")
