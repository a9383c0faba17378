"""Bones from two radiographs of a project: the voxels of ``medvit reconstruct``, and what a client is told where a view is missing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
from medvit_label.self_test import running
from PIL import Image as Pictures
from typer.testing import CliRunner

from medvit.bundles import open_bundle
from medvit.cli.main import app
from tests.bands import make_bundle, make_reconstructing_bundle, write_series
from tests.cli.scenes import bones
from tests.label.conftest import started

client_module = pytest.importorskip("monailabel.client")
pytest.importorskip("fastapi")
requests = pytest.importorskip("requests")


@dataclass(frozen=True)
class Room:
    """A server with radiographs of one body: PNG beside their record, and DICOM, a series for each view in one folder."""

    url: str
    studies: Path
    bundle: Path
    series: dict[str, str]

    def ask(self, image: str, output: str = "json", **params: Any) -> Any:
        form = {"params": json.dumps(params)}
        return requests.post(f"{self.url}/infer/crossing", form, params={"image": image, "output": output}, timeout=120)


def _invoke(*args: object) -> None:
    outcome = CliRunner().invoke(app, [str(arg) for arg in args])
    assert outcome.exit_code in (0, 3), outcome.output


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    top = tmp_path_factory.mktemp("room")
    values, affine = bones()
    write_series(top / "ct", values, affine, BodyPartExamined="HEAD")
    studies, series = top / "studies", {}
    _invoke("drr", top / "ct", "-o", studies, "-ot", "png", "-ot", "dicom", "--views", "0,90")
    for view in ("drr_0", "drr_90"):
        # as rooms store them: each view a series of its own
        dataset = pydicom.dcmread(studies / f"{view}.dcm")
        dataset.SeriesInstanceUID = series[view] = pydicom.uid.generate_uid(prefix=None)
        dataset.save_as(studies / f"{view}.dcm")
    with Pictures.open(studies / "drr_90.png") as picture:
        picture.save(studies / "bare.png", compress_level=1)  # another file than the record names: no geometry
    bundle = make_reconstructing_bundle(top / "bundles" / "crossing")
    make_bundle(top / "bundles" / "bands")
    served = running(str(studies), "--state", str(top / "state"), log=top / "log.txt")
    with started(served, MEDVIT_BUNDLES=str(bundle.parent), OMP_NUM_THREADS="1") as url:
        yield Room(url, studies, bundle, series)


def test_the_model_is_listed_with_its_task_labels_and_settings(room: Room) -> None:
    models = client_module.MONAILabelClient(room.url).info()["models"]
    found = models["crossing"]
    assert (found["type"], found["task"]) == ("others", "reconstruction")
    assert found["labels"] == {label.name: label.id for label in open_bundle(room.bundle).facts.labels}
    assert "lateral" in found["config"] and "pixel_spacing" in found["config"]
    assert models["bands"]["task"] == "segmentation" and models["bands"]["config"] == {}


@pytest.mark.parametrize("kind", ["png", "dcm"])
def test_two_views_give_the_voxels_of_the_command_line(room: Room, tmp_path: Path, kind: str) -> None:
    views = {view: room.studies / f"{view}.{kind}" for view in ("drr_0", "drr_90")}
    _invoke("reconstruct", "--ap", views["drr_0"], "--lat", views["drr_90"], "-o", tmp_path / "out", "-b", room.bundle)
    client = client_module.MONAILabelClient(room.url, tmpdir=str(tmp_path))
    ids = room.series if kind == "dcm" else {view: view for view in views}
    file, said = client.infer("crossing", ids["drr_0"], {"lateral": ids["drr_90"]})
    ours, theirs = nib.load(tmp_path / "out" / "labels.nii.gz"), nib.load(file)
    assert np.array_equal(np.asarray(ours.dataobj), np.asarray(theirs.dataobj)) and np.asarray(ours.dataobj).any()
    assert np.allclose(ours.affine, theirs.affine)
    assert said["label_names"] == {"mandible": 1, "bone": 2} and set(said["consistency"]) == {"AP", "lateral"}
    assert any("a grid of the network's own" in note for note in said["notes"])


def test_geometry_that_the_file_does_not_state_comes_with_the_request(room: Room, tmp_path: Path) -> None:
    refused = room.ask("drr_0", lateral="bare")
    assert refused.status_code == 422 and "Found no pixel spacing of the lateral view" in refused.json()["detail"]
    stated = {"pixel_spacing": "0.9,1.1", "magnification": 1.4}
    answer = room.ask("drr_0", "image", lateral="bare", result_extension=".nrrd", **stated)
    assert answer.status_code == 200, answer.text
    (tmp_path / "made.nrrd").write_bytes(answer.content)
    import SimpleITK as sitk

    found = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "made.nrrd"))).T
    _invoke(
        "reconstruct", "--ap", room.studies / "drr_0.png", "--lat", room.studies / "bare.png", "-o", tmp_path / "out", "-b",
        room.bundle, "--pixel-spacing", "0.9,1.1", "--magnification", "1.4",
    )  # fmt: skip
    assert np.array_equal(found, np.asarray(nib.load(tmp_path / "out" / "labels.nii.gz").dataobj))


@pytest.mark.parametrize(
    ("params", "status", "words"),
    [
        ({}, 400, "the lateral view is needed too. Name it: params={\"lateral\": IMAGE_ID}"),
        ({"lateral": "drr_0"}, 400, "Found the same image as AP and as lateral view; two radiographs from different sides"),
        ({"lateral": "../run"}, 404, "Found no image '../run' in the project"),
        ({"lateral": "drr_90", "magnification": [1, 2, 3]}, 400, "Found params.magnification"),
        ({"lateral": "drr_90", "pixel_spacing": -1}, 422, "Found pixel_spacing_mm = -1; it must be positive"),
    ],
)  # fmt: skip
def test_a_request_without_two_views_says_what_is_needed(
    room: Room, params: dict[str, Any], status: int, words: str
) -> None:
    answer = room.ask("drr_0", **params)
    assert answer.status_code == status and words in answer.json()["detail"]


def test_views_that_are_exchanged_and_a_seg_of_them_are_refused(room: Room) -> None:
    exchanged = room.ask("drr_90", lateral="drr_0")
    assert (
        exchanged.status_code == 422
        and "Found a radiograph taken at 90 degrees as AP view" in exchanged.json()["detail"]
    )
    seg = room.ask("drr_0", "dicom_seg", lateral="drr_90")
    assert seg.status_code == 422 and "the labels of a reconstruction lie on no DICOM slices" in seg.json()["detail"]


def test_a_reconstruction_takes_no_clicks_and_no_batch(room: Room) -> None:
    clicked = room.ask("drr_0", lateral="drr_90", clicks={"bone": [[1, 1]]})
    assert clicked.status_code == 422 and "segmentation" in clicked.json()["detail"]
    batch = requests.post(f"{room.url}/batch/infer/crossing", timeout=60)
    assert batch.status_code == 422 and "segmentation" in batch.json()["detail"]
