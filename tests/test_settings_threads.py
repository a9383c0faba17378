"""Number of threads of a run, from the option, the settings or the environment; passive waiting."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from typer.testing import CliRunner

import medvit
from medvit.cli.main import app
from medvit.errors import BackendError
from medvit.inference import computing_threads
from medvit.settings import limit_threads, thread_count

SMALL = "hippocampus_mr_swin_unetr"


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    image = gaussian_filter(np.random.default_rng(0).normal(size=(20, 24, 20)), 3) * 1000 + 500
    nib.save(nib.Nifti1Image(image.astype(np.float32), np.eye(4)), tmp_path / "image.nii.gz")
    return tmp_path / "image.nii.gz"


@pytest.mark.parametrize("command", ["segment", "restore", "reconstruct", "evaluate", "train", "benchmark"])
@pytest.mark.parametrize("given", ["0", "-2"])
def test_commands_refuse_fewer_than_one_thread(command: str, given: str):
    outcome = CliRunner().invoke(app, [command, f"--threads={given}"], env={"COLUMNS": "200"})
    assert outcome.exit_code == 2
    words = " ".join(outcome.output.replace("│", " ").split())
    assert f"Found {given} threads; a run needs at least one. Leave --threads out to use every core." in words


@pytest.mark.parametrize("command", [["batch", "run"], ["batch", "watch"], ["batch", "retry"], ["label", "start"]])
def test_batch_and_label_server_refuse_zero_threads(command: list[str]):
    outcome = CliRunner().invoke(app, [*command, "--threads", "0"], env={"COLUMNS": "200"})
    assert outcome.exit_code == 2
    assert "Found 0 threads; a run needs at least one." in " ".join(outcome.output.replace("│", " ").split())


def test_settings_refuse_zero_threads(scan: Path):
    with pytest.raises(BackendError, match=r"Found 0 threads; a run needs at least one\. Leave threads"):
        medvit.segment(scan, SMALL, threads=0, device="cpu")


@pytest.mark.parametrize("given", ["0", "-1", "two"])
def test_a_wrong_number_in_the_environment_is_refused(given: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MEDVIT_THREADS", given)
    with pytest.raises(BackendError, match=f"Found MEDVIT_THREADS={given}; a whole number of at least 1 is needed"):
        thread_count()
    assert thread_count(3) == 3  # the stated number comes first


def test_limits_end_with_their_block(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("MEDVIT_THREADS", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    before = torch.get_num_threads()
    with limit_threads(3):
        assert (os.environ["MEDVIT_THREADS"], os.environ["OMP_NUM_THREADS"], thread_count()) == ("3", "3", 3)
        with computing_threads():
            assert torch.get_num_threads() == 3
        with computing_threads(1):
            assert torch.get_num_threads() == 1
    assert "MEDVIT_THREADS" not in os.environ
    assert (os.environ["OMP_NUM_THREADS"], torch.get_num_threads()) == ("2", before)


def test_run_json_states_the_threads_and_labels_are_the_same(scan: Path, tmp_path: Path):
    before = torch.get_num_threads()
    found = {}
    for count in (1, 3):
        out = tmp_path / str(count)
        arguments = ["segment", scan, "-b", SMALL, "-d", "cpu", "--threads", count, "-o", out]
        outcome = CliRunner().invoke(app, [str(word) for word in arguments], catch_exceptions=False)
        assert outcome.exit_code in (0, 3), outcome.output
        assert json.loads((out / "run.json").read_text())["settings"]["threads"] == count
        found[count] = np.asarray(nib.load(out / "labels.nii.gz").dataobj)
    assert torch.get_num_threads() == before
    assert np.array_equal(found[1], found[3])


@pytest.mark.parametrize("module", ["medvit_label", "medvit_napari"])
def test_processes_of_the_apps_wait_without_spinning(module: str):
    code = f"""
import os, runpy, sys
sys.argv = ["medvit", "--help"]
try:
    runpy.run_module({module!r}, run_name="__main__") if {module!r} == "medvit_label" else __import__({module!r})
except SystemExit:
    pass
print(os.environ["OMP_WAIT_POLICY"], "torch" in sys.modules)
"""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    outcome = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert outcome.stdout.split()[-2:] == ["PASSIVE", "False"], outcome.stderr
