"""What labels tell of the work, as numbers and as the page a person looks at, in a real browser."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.label.conftest import Lab

requests = pytest.importorskip("requests")


@pytest.fixture(scope="module")
def corrected(lab: Lab) -> Lab:
    """A case that was given out, inferred, corrected and submitted; and one whose id is a piece of HTML."""
    client = lab.client
    client.infer("bands", "case0", {})
    labels = nib.load(lab.top / "truth" / "case0.nii.gz")
    client.next_sample("first", {})
    client.save_label("case0", str(lab.top / "truth" / "case0.nii.gz"), "final", {"seconds": 90})
    nib.save(nib.Nifti1Image(np.asarray(labels.dataobj), labels.affine), lab.top / "again.nii.gz")
    return lab


def test_a_label_is_held_against_the_answer_before_it(corrected: Lab) -> None:
    found = corrected.ask("GET", "/stats/").json()
    row = next(row for row in found["labels"] if row["image"] == "case0")
    truth = nib.load(corrected.top / "truth" / "case0.nii.gz")
    ids = np.asarray(truth.dataobj)
    answer = np.asarray(nib.load(corrected.client.infer("bands", "case0", {})[0]).dataobj)
    expected = 2 * ((ids == 1) & (answer == 1)).sum() / ((ids == 1).sum() + (answer == 1).sum())
    assert row["agreement"]["brainstem"] == pytest.approx(expected, abs=1e-3)
    assert row["against"] == "bands 0.1.0" and row["seconds"] == 90
    voxel_ml = abs(np.linalg.det(truth.affine[:3, :3])) / 1000
    assert row["volumes"]["brainstem"] == pytest.approx((ids == 1).sum() * voxel_ml, abs=1e-3)
    assert found["project"]["completed"] + found["project"]["waiting"] == found["project"]["total"] == 6
    assert found["models"]["bands"]["installed"] == "0.1.0"
    assert found["seconds_per_case"]["cases"] >= 1


def test_seconds_are_those_since_the_case_was_given_out(corrected: Lab) -> None:
    given = corrected.client.next_sample("first", {})["id"]
    corrected.submit(given)
    rows = {row["image"]: row for row in corrected.ask("GET", "/stats/").json()["labels"]}
    assert 0 <= rows[given]["seconds"] < 120 and rows[given]["agreement"] is None


def _dom(url: str, folder: Path) -> str:
    command = [
        "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={folder}",
        "--virtual-time-budget=4000", "--dump-dom", url,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=120).stdout


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium on this machine; Debian has it as chromium")
def test_the_page_shows_the_project_in_a_browser(corrected: Lab, tmp_path: Path) -> None:
    shown = _dom(f"{corrected.url}/", tmp_path)
    assert 'data-ready="yes"' in shown, shown[-2000:]
    stats = corrected.ask("GET", "/stats/").json()
    assert f"{stats['project']['completed']} of 6" in shown
    assert "<td" in shown and "case0" in shown and "bands 0.1.0" in shown and "0.1.0 (as installed)" in shown
    assert shown.count("<circle") >= 1 and "● " in shown  # a label, and the version it was held against


def test_the_page_loads_nothing_from_elsewhere(corrected: Lab) -> None:
    answer = corrected.ask("GET", "/")
    assert "http" not in answer.text.replace("http://www.w3.org/2000/svg", "")
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert "innerHTML" not in answer.text and json.dumps("case0") not in answer.text


def test_the_page_is_open_and_the_numbers_are_not(project) -> None:
    assert requests.get(project.url + "/", timeout=60).status_code == 200
    assert requests.get(project.url + "/stats/", timeout=60).status_code == 401
