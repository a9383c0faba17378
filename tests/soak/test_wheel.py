"""A wheel built and installed into an empty environment runs the main job."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.soak

ROOT = Path(__file__).resolve().parents[2]


def test_wheel_in_an_empty_environment_runs_the_demo(tmp_path):
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
        str(ROOT),
    ]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("medvit-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "medvit/_bundles/headneck_ct_swin_unetr/models/model.safetensors" in names
    assert "medvit/_bundles/headneck_ct_swin_unetr/configs/metadata.json" in names
    assert "medvit_batch/cli.py" in names
    assert not [n for n in names if n.startswith(("tests", "runs", "examples"))]

    venv.create(tmp_path / "env", with_pip=True)
    binary = tmp_path / "env" / "bin"
    subprocess.run([binary / "pip", "install", "-q", str(wheel)], check=True, capture_output=True)
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MEDVIT", "PYTHON"))}
    job = [binary / "medvit", "segment", str(ROOT / "examples/headneck_ct_dicom.zip"), "-o", "out"]
    job += ["-ot", "nifti", "-ot", "dicom-seg", "-ot", "rtstruct", "--preview", "--statistics"]
    outcome = subprocess.run(job, cwd=tmp_path, env=clean, capture_output=True, text=True)
    assert outcome.returncode in (0, 3), outcome.stderr
    wanted = {
        "labels.nii.gz",
        "labels.json",
        "seg.dcm",
        "rtstruct.dcm",
        "statistics.json",
        "statistics.csv",
        "preview.png",
        "run.json",
    }
    assert {p.name for p in (tmp_path / "out").iterdir()} == wanted
    batch = subprocess.run(
        [binary / "medvit", "batch", "--help"], cwd=tmp_path, env=clean, capture_output=True, text=True
    )
    assert "watch" in batch.stdout, batch.stderr
    check = subprocess.run([binary / "medvit", "doctor"], cwd=tmp_path, env=clean, capture_output=True, text=True)
    assert check.returncode == 0, check.stdout
    assert "headneck_ct_swin_unetr" in check.stdout

    # what `make label` does, in the same environment
    for wanted_too in ([f"medvit[label] @ {wheel.as_uri()}"], ["--no-deps", "monailabel==0.8.5"]):
        subprocess.run([binary / "pip", "install", "-q", *wanted_too], check=True, capture_output=True)
    label = subprocess.run(
        [binary / "medvit", "label", "check"], cwd=tmp_path, env=clean, capture_output=True, text=True
    )
    assert label.returncode == 0 and "All works." in label.stdout, label.stdout + label.stderr
