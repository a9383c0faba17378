"""Killed at any moment, a run leaves either nothing under the final name or all of it.

The network labels by brightness, so that reading, writing and renaming take most of a run.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests import warm
from tests.bands import oblique_affine, phantom, write_series

pytestmark = pytest.mark.soak


def _whole(folder: Path) -> None:
    record = json.loads((folder / "run.json").read_text())
    assert {p.name for p in folder.iterdir() if not p.name.startswith(".")} == {*record["files"], "run.json"}
    for name, digest in record["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest, name


def test_twenty_kills(banded, tmp_path_factory, tmp_path):
    source = tmp_path_factory.mktemp("source") / "ct"
    write_series(source, np.tile(phantom()[0], (1, 1, 2)), oblique_affine())
    out = tmp_path / "out"
    command = [sys.executable, "-m", "medvit", "segment", str(source), "-o", str(out), "-q"]
    command += ["-ot", "nifti", "-ot", "dicom-seg", "-ot", "rtstruct", "-p", "-f", "--overwrite", "-b", str(banded)]
    start = time.monotonic()
    assert warm.run(command).returncode in (0, 3)
    usual = time.monotonic() - start
    _whole(out)
    rng = np.random.default_rng(5)
    for n in range(4):
        if n % 2 and out.exists():
            shutil.rmtree(out)
        process = warm.Popen(command)
        # most kills fall into the last third, where files are written and renamed
        time.sleep(float(usual * (rng.uniform(0.6, 1.05) if n % 3 else rng.uniform(0.05, 0.6))))
        process.send_signal(signal.SIGKILL)
        process.wait()
        if out.exists() and (out / "run.json").exists():
            _whole(out)
        elif out.exists():
            assert (
                not any(out.iterdir()) or n % 2 == 0
            )  # an earlier result was being replaced; no seal, so not a result
    assert warm.run(command).returncode in (0, 3)
    _whole(out)
    # nothing of the killed runs is left
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert not list(out.glob(".medvit-*"))
