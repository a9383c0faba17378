"""Fixtures that every test may use. Data outside the repository is read through ``shared`` alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images and reference tensors beside the project, or a skip that says it is absent."""
    place = Path(os.environ.get("MEDVIT_SHARED", ROOT.parent / "shared"))
    if not (place / "data").is_dir():
        pytest.skip(f"no shared data at {place}; set MEDVIT_SHARED to run this test")
    return place


@pytest.fixture(scope="session", autouse=True)
def no_store_of_the_developer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What whoever runs the tests has fetched, or where from, must not change what they say."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDVIT_HOME", str(tmp_path_factory.mktemp("store") / "none"))
        patch.delenv("MEDVIT_MIRROR", raising=False)
        patch.setenv("MEDVIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def examples() -> Path:
    """The small real CT that ships with the repository."""
    return ROOT / "examples"


@pytest.fixture
def rng() -> np.random.Generator:
    """A seeded generator."""
    return np.random.default_rng(7)


@pytest.fixture(scope="session")
def banded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete bundle whose network labels by brightness: what geometry tests run, since its answer is known."""
    from tests.bands import make_bundle

    return make_bundle(tmp_path_factory.mktemp("bundles") / "banded")


@pytest.fixture(scope="session")
def example_result(examples: Path):
    """The shipped head-and-neck CT, segmented once by the default bundle from its DICOM series."""
    import medvit

    return medvit.segment(examples / "headneck_ct_dicom.zip")
