"""Fixtures of the tests beside this file."""

from __future__ import annotations

from pathlib import Path

import pytest

from medvit.io import open_source
from tests.bands import phantom, write_series
from tests.io.labels.seg_reader.seg_objects import AFFINE, seg, segment_pixels


@pytest.fixture(scope="module")
def series(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("series") / "ct"
    write_series(folder, phantom()[0], AFFINE)
    return folder


@pytest.fixture(scope="module")
def scan(series):
    return open_source(series)


@pytest.fixture(scope="module")
def binary(scan, tmp_path_factory) -> Path:
    return seg(tmp_path_factory.mktemp("seg") / "seg.dcm", scan, segment_pixels(phantom()[1]))
