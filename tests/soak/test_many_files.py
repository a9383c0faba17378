"""A folder of 20,000 files of which 30 belong together: found, listed in short, read, and little memory taken."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest

from medvit.errors import SelectionError
from medvit.io import open_source
from medvit.io.dicom import run_preflight
from tests.bands import write_series

pytestmark = pytest.mark.soak

_FILES, _TOGETHER = 20_000, 30


@pytest.fixture(scope="module")
def heap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("heap")
    noise = np.random.default_rng(1).integers(-900, 900, (8, 8, 1)).astype(np.int16)
    path = write_series(folder / "one", noise, np.diag([-1.0, -1.0, 2.0, 1.0]), SliceThickness="2")[0]
    dataset = pydicom.dcmread(path)
    path.unlink()
    for n in range(_FILES):
        within = folder / f"{n % 40:02d}"
        within.mkdir(exist_ok=True)
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{n + 1}"
        together = n % (_FILES // _TOGETHER) == 7 and n // (_FILES // _TOGETHER) < _TOGETHER
        dataset.SeriesInstanceUID = "1.2.9" if together else f"1.2.8.{n}"
        dataset.ImagePositionPatient = [0, 0, 2.0 * (n // (_FILES // _TOGETHER))]
        dataset.save_as(within / f"{n:05d}", enforce_file_format=True)
    return folder


def test_the_thirty_are_found_and_read(heap):
    volumes = run_preflight(heap).volumes
    largest = max(volumes, key=lambda v: len(v.planes))
    assert len(largest.planes) == _TOGETHER
    assert len(volumes) == _FILES - _TOGETHER + 1
    with pytest.raises(SelectionError, match=r"(?s)more: see medvit inspect") as caught:
        open_source(heap)
    assert len(str(caught.value).splitlines()) < 30
    assert open_source(heap, series="1.2.9").array.shape == (1, 8, 8, _TOGETHER)


def test_inspect_takes_little_memory(heap):
    code = (
        "import json, resource, sys\n"
        "from pathlib import Path\n"
        "from medvit.io.dicom import run_preflight\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "found = run_preflight(Path(sys.argv[1]))\n"
        "after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "print(json.dumps([len(found.volumes), (after - before) / 1024]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(heap)], capture_output=True, text=True, check=True)
    volumes, grown_mb = json.loads(done.stdout)
    assert volumes == _FILES - _TOGETHER + 1
    assert grown_mb < 150  # about 5 kB for each volume; the files weigh far more in any hospital
