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
from tests.bands import write_series

pytestmark = pytest.mark.soak

_FILES, _TOGETHER = 20_000, 30
_SERIES = "1.2.9.100000"
"""The series of those that belong together."""

_INSPECT = """
import json, resource, sys
from pathlib import Path
from medvit.io.dicom import run_preflight
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
volumes = run_preflight(Path(sys.argv[1])).volumes
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([len(volumes), max(len(v.planes) for v in volumes), (after - before) / 1024]))
"""


@pytest.fixture(scope="module")
def heap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write one file, and the others as it with texts of the same length in the places of three."""
    folder = tmp_path_factory.mktemp("heap")
    noise = np.random.default_rng(1).integers(-900, 900, (8, 8, 1)).astype(np.int16)
    path = write_series(folder / "one", noise, np.diag([-1.0, -1.0, 2.0, 1.0]), SliceThickness="2")[0]
    dataset = pydicom.dcmread(path)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3.100000"
    dataset.SeriesInstanceUID = "1.2.8.100000"
    dataset.ImagePositionPatient = ["0", "0", "0000.0"]
    dataset.save_as(path, enforce_file_format=True)
    first = path.read_bytes()
    path.unlink()
    for n in range(_FILES):
        within = folder / f"{n % 40:02d}"
        within.mkdir(exist_ok=True)
        together = n % (_FILES // _TOGETHER) == 7 and n // (_FILES // _TOGETHER) < _TOGETHER
        content = first.replace(b"1.2.3.100000", b"1.2.3.%d" % (100_000 + n))
        content = content.replace(b"1.2.8.100000", _SERIES.encode() if together else b"1.2.8.%d" % (100_000 + n))
        height = b"%06.1f" % (2 * (n // (_FILES // _TOGETHER)))
        (within / f"{n:05d}").write_bytes(content.replace(b"0\\0\\0000.0", b"0\\0\\" + height))
    return folder


@pytest.fixture(scope="module")
def inspected(heap: Path) -> tuple[int, int, float]:
    """Number of volumes, planes of the largest, and the memory in MiB that it took a process of its own to find them."""
    done = subprocess.run([sys.executable, "-c", _INSPECT, str(heap)], capture_output=True, text=True, check=True)
    volumes, planes, grown_mb = json.loads(done.stdout)
    return volumes, planes, grown_mb


def test_the_thirty_are_found_and_read(heap, inspected):
    volumes, planes, _ = inspected
    assert planes == _TOGETHER
    assert volumes == _FILES - _TOGETHER + 1
    with pytest.raises(SelectionError, match=r"(?s)more: see medvit inspect") as caught:
        open_source(heap)
    assert len(str(caught.value).splitlines()) < 30
    assert open_source(heap, series=_SERIES).array.shape == (1, 8, 8, _TOGETHER)


def test_inspect_takes_little_memory(inspected):
    volumes, _, grown_mb = inspected
    assert volumes == _FILES - _TOGETHER + 1
    assert grown_mb < 150  # about 5 kB for each volume; the files weigh far more in any hospital
