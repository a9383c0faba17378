"""Mutated files: every outcome is a result or one of our errors, never a crash, never a hang."""

from __future__ import annotations

import signal
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from medvit.errors import MedvitError
from medvit.io import open_source
from tests.bands import oblique_affine, phantom, write_series

pytestmark = pytest.mark.soak

_SECONDS = 20


def _mutate(content: bytes, rng: np.random.Generator) -> bytes:
    data = bytearray(content)
    kind = rng.integers(5)
    if kind == 0:
        return bytes(data[: int(rng.integers(len(data)))])
    header = min(len(data), 2000)
    for _ in range(int(rng.integers(1, 12))):
        at = int(rng.integers(header if kind < 4 else len(data)))
        if kind == 1:
            data[at] = int(rng.integers(256))
        elif kind == 2:
            data[at : at + 2] = b"\xff\xff"
        elif kind == 3:
            del data[at : at + int(rng.integers(1, 9))]
        else:
            data[at:at] = rng.bytes(int(rng.integers(1, 9)))
    return bytes(data)


def _limited(action) -> str:
    """Run with a time limit; what came of it in one word."""

    def late(*_):
        raise TimeoutError

    previous = signal.signal(signal.SIGALRM, late)
    signal.alarm(_SECONDS)
    try:
        action()
        return "read"
    except MedvitError as error:
        assert str(error).strip()
        return type(error).__name__
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def test_a_thousand_mutated_series(tmp_path):
    paths = write_series(tmp_path / "series", phantom((24, 20, 6))[0], oblique_affine())
    originals = {path: path.read_bytes() for path in paths}
    rng = np.random.default_rng(11)
    outcomes: dict[str, int] = {}
    start = time.monotonic()
    for n in range(1000):
        path = paths[n % len(paths)]
        path.write_bytes(_mutate(originals[path], rng))
        word = _limited(lambda: open_source(tmp_path / "series"))
        outcomes[word] = outcomes.get(word, 0) + 1
        path.write_bytes(originals[path])
    print(outcomes, f"{time.monotonic() - start:.0f} s")
    assert sum(outcomes.values()) == 1000
    assert outcomes.get("read", 0) > 0
    assert len(outcomes) > 2


@pytest.mark.parametrize("name", ["headneck_ct.nii.gz", "headneck_ct_dicom.zip"])
def test_mutated_single_files(name, examples, tmp_path):
    original = (examples / name).read_bytes()
    rng = np.random.default_rng(12)
    for n in range(60):
        path: Path = tmp_path / f"{n}-{name}"
        path.write_bytes(_mutate(original, rng))
        _limited(lambda path=path: open_source(path))
        path.unlink()


def test_random_bytes_under_every_suffix(tmp_path):
    rng = np.random.default_rng(13)
    for suffix in (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd", ".png", ".jpg", ".zip", ".dcm", ""):
        for size in (0, 1, 131, 400, 5000):
            path = tmp_path / f"x{suffix}"
            for content in (rng.bytes(size), bytes(128) + b"DICM" + rng.bytes(size)):
                path.write_bytes(content)
                assert _limited(lambda path=path: open_source(path)) != "read"


def test_a_zip_of_random_entries(tmp_path):
    rng = np.random.default_rng(14)
    for n in range(40):
        with zipfile.ZipFile(tmp_path / f"{n}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for m in range(3):
                archive.writestr(f"{m}.dcm", bytes(128) + b"DICM" + rng.bytes(int(rng.integers(3000))))
        assert _limited(lambda n=n: open_source(tmp_path / f"{n}.zip")) != "read"
