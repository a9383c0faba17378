"""Bundles and files that several tests of commands share."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import pytest
from typer.testing import CliRunner

from medvit.cli.main import app
from tests.bands import make_reconstructing_bundle, make_restoring_bundle, phantom, write_series
from tests.cli.scenes import AFFINE, bones


def run(*args: object):
    return CliRunner().invoke(app, [str(a) for a in args])


@pytest.fixture(scope="session")
def place(tmp_path_factory) -> Path:
    """An oblique, anisotropic, non-square series with its labels beside it."""
    folder = tmp_path_factory.mktemp("convert")
    write_series(folder / "ct", phantom()[0], AFFINE)
    nib.save(nib.Nifti1Image(phantom()[1], AFFINE), folder / "organs.nii.gz")
    out, like = folder / "out", folder / "ct"
    outcome = run("convert", folder / "organs.nii.gz", "-o", out, "--like", like, "-ot", "nifti,dicom-seg,rtstruct")
    assert outcome.exit_code == 0, outcome.output
    return folder


@pytest.fixture(scope="session")
def crossing(tmp_path_factory) -> Path:
    """A bundle that sees a body where both views are bright."""
    return make_reconstructing_bundle(tmp_path_factory.mktemp("bundles") / "crossing")


@pytest.fixture(scope="session")
def taken(tmp_path_factory) -> Path:
    """PNG and DICOM radiographs of the bodies from four sides, of a DICOM series."""
    place = tmp_path_factory.mktemp("taken")
    values, affine = bones()
    write_series(place / "ct", values, affine, BodyPartExamined="HEAD")
    outcome = run("drr", place / "ct", "-o", place / "drr", "-ot", "png", "-ot", "dicom", "--views", "0,90,180,270")
    assert outcome.exit_code == 0, outcome.output
    return place / "drr"


@pytest.fixture(scope="session")
def smoothing(tmp_path_factory) -> Path:
    """A bundle that takes the mean of 3 x 3 pixels of each axial slice."""
    return make_restoring_bundle(tmp_path_factory.mktemp("bundles") / "smoothing")


@pytest.fixture(scope="session")
def lifting(tmp_path_factory) -> Path:
    """Make a bundle that adds 7 HU to each voxel."""
    return make_restoring_bundle(tmp_path_factory.mktemp("bundles") / "lifting", None, 7.0)
