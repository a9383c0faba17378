"""A bundle that a test may change."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def copy(banded, tmp_path) -> Path:
    return Path(shutil.copytree(banded, tmp_path / "copy"))
