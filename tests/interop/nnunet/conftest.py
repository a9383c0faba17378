"""A store of imported bundles, and the models with the labels that nnunetv2 gave."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def store(tmp_path, monkeypatch) -> Path:
    """An empty store of the user."""
    monkeypatch.setenv("MEDVIT_HOME", str(tmp_path / "store"))
    return tmp_path / "store"


@pytest.fixture(scope="session")
def parity(shared) -> Path:
    """Folder of trained nnU-Nets with inputs and the labels that nnunetv2 2.8.1 gave."""
    return shared / "parity" / "nnunet"
