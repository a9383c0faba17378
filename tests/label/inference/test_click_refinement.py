"""Clicks on an answer, sent to the server as clients send them: what changes, what does not, and what is said."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import mean
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from tests import warm
from tests.bands import oblique_affine
from tests.conftest import ROOT
from tests.label.conftest import TOKEN, Project

client_module = pytest.importorskip("monailabel.client")
pytest.importorskip("fastapi")

BRAINSTEM = "brainstem"


class Annotator:
    """MONAI Label's client on one image."""

    def __init__(self, project: Project, folder: Path) -> None:
        self._client = client_module.MONAILabelClient(project.url, tmpdir=str(folder), client_id="clicks")
        self._client.update_auth({"token_type": "bearer", "access_token": TOKEN})

    def run(self, image: str = "scan", file: Path | None = None, **params: Any) -> tuple[np.ndarray, dict[str, Any]]:
        sent, told = self._client.infer("bands", image, params, file=None if file is None else str(file))
        return np.asarray(nib.load(sent).dataobj), told


@pytest.fixture
def annotator(project: Project, tmp_path: Path) -> Annotator:
    return Annotator(project, tmp_path)


@pytest.fixture
def before(annotator: Annotator) -> np.ndarray:
    return annotator.run(restart=True)[0]


def inside(mask: np.ndarray) -> list[int]:
    """The voxel deepest in a mask."""
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1, 1:-1]
    return [int(p) for p in np.unravel_index(depth.argmax(), depth.shape)]


def refusal(annotator: Annotator, **params: Any) -> str:
    with pytest.raises(client_module.client.MONAILabelClientException) as refused:
        annotator.run(**params)
    assert "Status: 4" in refused.value.msg
    return str(refused.value.msg)


@pytest.mark.parametrize("label", [0, 1, 3])
def test_a_click_that_agrees_changes_nothing(annotator: Annotator, before: np.ndarray, label: int) -> None:
    name = {0: "background", 1: BRAINSTEM, 3: "parotid_right"}[label]
    edge = np.argwhere((before == label) & ndimage.binary_dilation(before != label))[7].tolist()
    after, told = annotator.run(clicks={name: [inside(before == label), edge]})
    assert np.array_equal(after, before) and after.dtype == before.dtype
    assert told["changed_voxels"] == 0
    assert any("agree with the labels; they changed nothing" in note for note in told["notes"])
    assert not any("is left out" in note for note in told["notes"])  # the uncertainty still holds too


@pytest.mark.parametrize("name", ["background", "larynx"])
def test_a_click_changes_its_own_region_near_it_and_little_of_it(
    annotator: Annotator, before: np.ndarray, name: str
) -> None:
    place = inside(before == 1)
    after, told = annotator.run(clicks={name: [place]})
    changed = after != before
    assert after[tuple(place)] == {"background": 0, "larynx": 6}[name]
    assert told["changed_voxels"] == changed.sum()
    assert (before[changed] == 1).all() and np.unique(after[changed]).size == 1
    pieces, count = ndimage.label(changed)
    assert count == 1 and pieces[tuple(place)]
    assert changed.sum() <= 0.02 * (before == 1).sum()


def test_clicks_under_every_name_that_clients_use(annotator: Annotator, before: np.ndarray) -> None:
    """``clicks``; MONAI Label's ``foreground`` and ``background``; lists under the labels' own names."""
    add = (np.argwhere(ndimage.binary_dilation(before == 1) & (before == 0))[20]).tolist()
    remove = inside(before == 3)
    expected, _ = annotator.run(clicks={BRAINSTEM: [add], "background": [remove]})
    assert expected[tuple(add)] == 1 and expected[tuple(remove)] == 0
    for params in (
        {"label": BRAINSTEM, "foreground": [add], "background": [remove]},
        {"label": BRAINSTEM, BRAINSTEM: [add], "larynx": [], "background": [remove]},
    ):
        after, _ = annotator.run(restart=True, **params)
        assert np.array_equal(after, expected)
    alone, told = annotator.run(label=BRAINSTEM, foreground=[], background=[remove], restart=True)
    assert alone[tuple(remove)] == 0 and told["changed_voxels"] > 0
    again, _ = annotator.run(
        label=BRAINSTEM, foreground=[], background=[], larynx=[]
    )  # nothing clicked: the model alone
    assert np.array_equal(again, before)


def test_the_last_of_two_clicks_on_one_voxel_is_taken_and_it_is_said(annotator: Annotator, before: np.ndarray) -> None:
    place = inside(before == 1)
    after, told = annotator.run(clicks={"larynx": [place], "background": [place]})
    assert after[tuple(place)] == 0
    (note,) = (note for note in told["notes"] if "Two labels" in note)
    assert f"{place}: larynx, then background; the last, background, was taken" in note
    after, told = annotator.run(clicks={"background": [place], BRAINSTEM: [place]}, restart=True)
    assert np.array_equal(after, before)


def test_a_click_on_air_changes_that_voxel_alone_and_it_is_said(annotator: Annotator, before: np.ndarray) -> None:
    place = next(p.tolist() for p in np.argwhere(ndimage.distance_transform_edt(before == 0) > 3))
    after, told = annotator.run(clicks={BRAINSTEM: [place]})
    assert [place] == np.argwhere(after != before).tolist()
    assert any(f"The intensities at {place} are unlike {BRAINSTEM}" in note for note in told["notes"])


def test_clicks_that_mean_nothing_are_refused_with_point_and_size(annotator: Annotator) -> None:
    words = refusal(annotator, clicks={"background": [[3, 27, 4]]})
    assert "Found the point [3, 27, 4]" in words and "(31, 27, 19)" in words
    assert "Found the point [-1, 2, 4]" in refusal(annotator, background=[[-1, 2, 4]])
    assert "Found the point [1, 2]" in refusal(annotator, larynx=[[1, 2]])
    assert "Found no label 'liver' in bands" in refusal(annotator, clicks={"liver": [[1, 1, 1]]})
    assert "Found no label 'liver' in bands" in refusal(annotator, label="liver", foreground=[[1, 1, 1]])
    assert "under 'foreground' without a label" in refusal(annotator, foreground=[[1, 1, 1]])
    assert "Found clicks that are not an object" in refusal(annotator, clicks=[[1, 1, 1]])


def test_many_clicks_in_one_request_all_hold(
    annotator: Annotator, before: np.ndarray, rng: np.random.Generator
) -> None:
    places = np.unique(rng.integers(0, before.shape, (60, 3)), axis=0).tolist()
    named = {"background": places[::3], BRAINSTEM: places[1::3], "larynx": places[2::3]}
    after, _ = annotator.run(clicks=named)
    for name, number in (("background", 0), (BRAINSTEM, 1), ("larynx", 6)):
        assert all(after[tuple(place)] == number for place in named[name])


def test_a_label_of_one_voxel_and_slices_three_times_as_thick(annotator: Annotator, tmp_path: Path) -> None:
    values = np.full((24, 20, 10), -1000, np.float32)
    values[10, 3:17, 2:8] = 3 / 8 * 500 - 200
    values[18:23, 3:17, 2:8] = 1 / 8 * 500 - 200
    nib.save(nib.Nifti1Image(values, oblique_affine((2.0, 2.0, 6.0))), tmp_path / "thin.nii.gz")
    file = tmp_path / "thin.nii.gz"
    before, _ = annotator.run("", file, force=True)
    sheet = before == 3
    assert sheet.any() and (sheet.sum(0) <= 1).all()
    place = np.argwhere(sheet)[len(np.argwhere(sheet)) // 2].tolist()
    same, _ = annotator.run("", file, force=True, clicks={"parotid_right": [place]})
    assert np.array_equal(same, before)
    after, _ = annotator.run("", file, force=True, clicks={"background": [place]})
    changed = np.argwhere(after != before)
    assert after[tuple(place)] == 0 and (before[after != before] == 3).all() and len(changed) <= 9
    assert np.abs((changed - place) * (2.0, 2.0, 6.0)).max() <= 6  # a slice away at most


def test_a_click_that_agrees_leaves_thin_labels_without_edges_alone(annotator: Annotator, tmp_path: Path) -> None:
    """Labels that pass into each other, three voxels thick: nothing in the image tells where one ends."""
    bands = np.linspace(0.6, 7.4, 24)[:, None, None] / 8 * 500 - 200
    values = np.broadcast_to(bands, (24, 20, 12)).astype(np.float32) + np.random.default_rng(1).normal(
        0, 3, (24, 20, 12)
    )
    values[0] = -1000
    nib.save(nib.Nifti1Image(values.astype(np.float32), oblique_affine()), tmp_path / "slope.nii.gz")
    file = tmp_path / "slope.nii.gz"
    before, _ = annotator.run("", file, force=True)
    for number, name in ((3, "parotid_right"), (5, "esophagus")):
        place = inside(before == number)
        after, told = annotator.run("", file, force=True, clicks={name: [place]})
        assert np.array_equal(after, before) and told["changed_voxels"] == 0
        after, _ = annotator.run("", file, force=True, clicks={"background": [place]})
        lost = (before == number) & (after != number)
        assert after[tuple(place)] == 0 and lost.sum() <= 0.02 * (before == number).sum()
        assert (before[after != before] == number).all()


def simulated(tmp_path: Path, bundles: list[str], cases: list[int]) -> dict[str, Any]:
    """Return the figures of ``benchmarks/clicks.py``, read from its JSON."""
    out = tmp_path / "clicks.json"
    counts = [str(count) for count in cases]
    command = [sys.executable, str(ROOT / "benchmarks" / "clicks.py"), *bundles, "--cases", *counts, "-o", out]
    done = warm.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(out.read_text())
    assert list(found) == bundles
    return found


def assert_clicks_help(found: dict[str, Any]) -> None:
    """The mean Dice rises with one, three and five clicks, and no click costs its label more than 0.005."""
    for name, run in found.items():
        means = [mean(column) for column in zip(*run["dice"].values(), strict=True)]
        assert means[0] < means[1] < means[3] < means[5], f"{name}: {means}"
        gains = [click["gain"] for clicks in run["clicks"].values() for click in clicks]
        assert gains and min(gains) >= -0.005, f"{name}: {min(gains)}"


def test_simulated_clicks_raise_dice_on_real_images(shared: Path, tmp_path: Path) -> None:
    names = ["hippocampus_mr_swin_unetr", "headneck_ct_swin_unetr", "nuclei_barlow_swin"]
    assert_clicks_help(simulated(tmp_path, names, [2, 1, 2]))


@pytest.mark.soak
def test_simulated_clicks_raise_dice_on_every_held_out_image(shared: Path, tmp_path: Path) -> None:
    names = ["hippocampus_mr_swin_unetr", "headneck_ct_swin_unetr", "nuclei_barlow_swin"]
    assert_clicks_help(simulated(tmp_path, names, [100, 100, 100]))
