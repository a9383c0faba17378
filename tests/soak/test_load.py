"""Many cases in one process: the model is loaded once, memory stays flat, every case gives the same labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import medvit
from medvit.inference.loaded_bundle import _load

pytestmark = pytest.mark.soak


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from Linux's /proc")
def test_twenty_cases_in_one_process(cropped_series, cropped_example, tmp_path):
    first = None
    resident = []
    loaded = _load.cache_info().misses
    for n in range(20):
        result = medvit.segment(cropped_series if n % 2 else cropped_example, fast=True)
        result.save(tmp_path / str(n), ("nifti", "dicom-seg", "rtstruct") if n % 2 else ("nifti",), preview=True)
        if n % 2:
            first = result.array if first is None else first
            assert np.array_equal(result.array, first)
        assert _load.cache_info().misses <= loaded + 1
        resident.append(_resident_mb())
    # the first cases warm allocators and caches; after them nothing may pile up
    assert max(resident[12:]) < max(resident[4:8]) + 120, [round(v) for v in resident]
