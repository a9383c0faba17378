"""A series of which some slices are not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.io.dicom.preflight.test_completeness import _write


@pytest.fixture
def annexed(tmp_path) -> Path:
    """A clone of which the last four slices were not fetched."""
    store = tmp_path / "store"
    paths = _write(store)
    clone = tmp_path / "clone"
    clone.mkdir()
    for path in paths:
        (clone / path.name).symlink_to(path)
    for path in paths[-4:]:
        path.unlink()
    return clone
