"""Fixtures of the training tests."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import pytest

from tests.bands import oblique_affine, phantom


@pytest.fixture
def labelled(tmp_path, banded) -> tuple[Path, Path]:
    """A copy of the banded bundle and a list of phantoms with labels."""
    values, labels = phantom()
    for n in range(2):
        nib.save(nib.Nifti1Image(values, oblique_affine()), tmp_path / f"s{n}_ct.nii.gz")
        nib.save(nib.Nifti1Image(labels, oblique_affine()), tmp_path / f"s{n}_oar.nii.gz")
    entry = lambda n: {"image": f"s{n}_ct.nii.gz", "label": f"s{n}_oar.nii.gz"}  # noqa: E731
    (tmp_path / "list.json").write_text(json.dumps({"training": [entry(0)], "validation": [entry(1)]}))
    return Path(shutil.copytree(banded, tmp_path / "bundle")), tmp_path / "list.json"
