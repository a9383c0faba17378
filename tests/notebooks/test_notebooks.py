"""Every notebook runs from its first cell to its last, on what ships; its assertions are its own."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

import medvit
from tests.bands import make_reconstructing_bundle

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))

SMALLER: dict[str, dict[str, object]] = {
    "04_train_on_a_handful": {"STEPS": 60},
    "05_denoise_and_measure": {"SLICES": 2},
}
"""What stands in a notebook's cell of parameters, less of it, so that each runs in seconds; the notebook says so."""


def test_there_are_notebooks():
    assert len(PATHS) >= 6


def _set(notebook: Any, values: dict[str, object]) -> None:
    """Give the one cell tagged "parameters" other values; a name it does not set is an error."""
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    for name, value in values.items():
        cell.source, found = re.subn(rf"^{name} = [^#\n]+", f"{name} = {value!r}  ", cell.source, flags=re.MULTILINE)
        assert found == 1, name


LONG = ("03_bring_a_published_checkpoint", "04_train_on_a_handful", "05_denoise_and_measure")


@pytest.mark.parametrize(
    "path", [pytest.param(p, id=p.stem, marks=pytest.mark.soak if p.stem in LONG else ()) for p in PATHS]
)
def test_it_runs(path, cropped_series, monkeypatch, tmp_path):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    values = dict(SMALLER.get(path.stem, {}))
    if path.stem == "01_segment_and_look":
        values["SCAN"] = str(cropped_series)
    if path.stem == "06_xray_to_3d" and medvit.open_bundle("headneck_xray_swin_x2s").state != "trained":
        # until its weights are there: the same steps by a network that sees a body where both views are bright
        values["BUNDLE"] = str(make_reconstructing_bundle(tmp_path / "crossing"))
    if values:
        _set(notebook, values)
    # threads that wait by spinning take ten times as long beside another program
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    # the kernel is another process: it must find this checkout
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(NOTEBOOKS.parent), os.environ.get("PYTHONPATH", "")]))
    nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(NOTEBOOKS)}}
    ).execute()
    texts = [str(out) for cell in notebook.cells for out in cell.get("outputs", [])]
    assert not any("Traceback" in text for text in texts)


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)
def test_what_is_stored_is_clean(path):
    """No absolute paths, no errors, no warnings in what readers see without running it, and small pictures."""
    text = path.read_text()
    for word in ("Traceback", "Warning", "/home/", "/root/", "/work/", "/Users/"):
        assert word not in text, word
    assert len(text) < 400_000
