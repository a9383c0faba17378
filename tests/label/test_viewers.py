"""What OHIF v3's MONAI Label extension sends, byte for byte where it matters, and what it does with the answers.

After ``plugins/ohifv3/extensions/monai-label/src`` of Project-MONAI/MONAILabel: ``services/MonaiLabelClient.js`` and
``components/MonaiLabelPanel.tsx``, as of December 2025 (``output=image``, bytes) and as of release 0.8 (``output=all``, 16 bits).
3D Slicer's module speaks through ``MONAILabelClient``, which drives ``test_client.py``.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from typing import Any

import numpy as np
import pytest

from tests.label.conftest import TOKEN, VIEWER, Project

requests = pytest.importorskip("requests")
HEADERS = {"Authorization": f"Bearer {TOKEN}", "Origin": VIEWER, "Accept": "application/json, multipart/form-data"}


def ask(project: Project, method: str, path: str, **more: Any) -> Any:
    """A request as axios makes it from the viewer's page; a form is sent as multipart even without a file."""
    form = more.pop("form", {})
    files = {name: (None, value) if isinstance(value, str) else value for name, value in form.items()}
    answer = requests.request(method, project.url + path, headers=HEADERS, files=files or None, timeout=60, **more)
    assert answer.headers["Access-Control-Allow-Origin"] == VIEWER  # else the browser keeps the answer to itself
    return answer


def raw_nrrd(content: bytes) -> tuple[dict[str, str], np.ndarray]:
    """As nrrd-js reads it: header lines, an empty line, voxels, i fastest."""
    head, _, voxels = content.partition(b"\n\n")
    fields = dict(line.split(": ", 1) for line in head.decode().splitlines()[1:] if ": " in line)
    kind = {"unsigned char": np.uint8, "uint8": np.uint8, "unsigned short": np.uint16, "uint16": np.uint16}[
        fields["type"]
    ]
    shape = tuple(int(n) for n in fields["sizes"].split())
    assert fields["encoding"] == "raw"
    return fields, np.frombuffer(voxels, kind).reshape(shape, order="F")


@pytest.mark.parametrize(("method", "path"), [("PUT", "/datastore/label"), ("POST", "/train/"), ("DELETE", "/train/")])
def test_the_browser_may_ask_beforehand(project: Project, method: str, path: str) -> None:
    asked = {
        "Origin": VIEWER,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "content-type",
    }
    answer = requests.options(project.url + path, headers=asked, timeout=60)
    assert answer.status_code == 200 and answer.headers["Access-Control-Allow-Origin"] == VIEWER
    assert method in answer.headers["Access-Control-Allow-Methods"]
    elsewhere = requests.options(project.url + path, headers=asked | {"Origin": "http://evil.example"}, timeout=60)
    assert elsewhere.status_code == 403 and "Access-Control-Allow-Origin" not in elsewhere.headers


def test_info_holds_what_the_panel_reads(project: Project) -> None:
    found = ask(project, "GET", "/info/").json()
    offered = [name for name, model in found["models"].items() if model["type"] == "segmentation"]
    assert offered == ["bands"] and all(isinstance(n, int) for n in found["models"]["bands"]["labels"].values())
    assert isinstance(found["labels"], list) and set(found["strategies"]) == {"first", "random", "quality"}
    assert {"total", "completed"} <= set(found["datastore"])


def _segmented(project: Project, dtype: str, output: str) -> requests.Response:
    params = {
        "result_extension": ".nrrd",
        "result_dtype": dtype,
        "result_compress": False,
        "restore_label_idx": False,
    }
    asked = f"/infer/bands?image={project.series}&output={output}"
    return ask(project, "POST", asked, form={"params": json.dumps(params)})


def test_segmentation_as_of_december_2025(project: Project) -> None:
    answer = _segmented(project, "uint8", "image")
    _, ids = raw_nrrd(answer.content)
    assert answer.status_code == 200 and ids.dtype == np.uint8 and ids.shape == (31, 27, 19) and ids.any()


def test_segmentation_as_of_release_0_8(project: Project) -> None:
    """The panel decodes the whole answer as text, cuts it at the boundary, and draws nothing without ``centroids``."""
    answer = _segmented(project, "uint16", "all")
    boundary = re.search(r"boundary=([^;]+)", answer.headers["content-type"])
    assert boundary is not None
    text = answer.content.decode("utf-8", "replace")
    parts = [part for part in text.split(f"--{boundary[1]}") if part.strip()]
    told = next(part for part in parts if "Content-Type: application/json" in part)
    said = json.loads(told[told.index("{") : told.rindex("}") + 1])
    packed = next(part for part in parts if "Content-Type: application/octet-stream" in part).split("\r\n\r\n")[1]
    _, ids = raw_nrrd(packed[: packed.rindex("\r\n")].encode("latin-1"))
    assert ids.dtype == np.uint16 and ids.any()
    assert {value[0] for value in said["centroids"].values()} == set(np.unique(ids).tolist()) - {0}
    for number, *middle in said["centroids"].values():
        assert np.abs(np.argwhere(ids == number).mean(0) - middle).max() < 1


def test_next_sample_submit_and_training(project: Project) -> None:
    found = ask(project, "POST", "/activelearning/random", json={})
    assert found.status_code == 200
    ids = np.zeros((31, 27, 19), np.uint8)
    ids[3:6, 4:9, 2:7] = 1
    form = {
        "params": json.dumps({"label_info": [{"name": "brainstem", "idx": 1}], "model": "bands"}),
        "label": ("label.bin", ids.tobytes(order="F"), "application/octet-stream"),
    }
    saved = ask(project, "PUT", f"/datastore/label?image={project.series}", form=form)
    assert saved.status_code == 200 and saved.json()["tag"] == "final"
    assert ask(project, "GET", "/train/?check_if_running=true").status_code == 404
    refused = ask(project, "POST", "/train/", json={})
    assert refused.status_code == 400 and "at least 4 are needed" in refused.json()["detail"]
    assert ask(project, "DELETE", "/train/").status_code == 200


def test_an_image_that_changes_is_read_anew(project: Project) -> None:
    """Also for clicks, which go on from the last answer where the image is the same."""
    import nibabel as nib

    place = project.studies / "changing.nii.gz"
    shutil.copyfile(project.studies / "scan.nii.gz", place)
    try:
        time.sleep(1.1)  # the server takes a listing to be true for a second
        assert ask(project, "POST", "/infer/bands?image=changing&output=json").status_code == 200
        whole = nib.load(project.studies / "scan.nii.gz")
        nib.save(whole.slicer[:, :, :12], place)
        clicked = ask(
            project,
            "POST",
            "/infer/bands?image=changing&output=image",
            form={"params": '{"clicks": {"background": [[5, 5, 5]]}}'},
        )
        assert clicked.status_code == 200, clicked.text
        (project.state / "clicked.nii.gz").write_bytes(clicked.content)
        assert nib.load(project.state / "clicked.nii.gz").shape == (31, 27, 12)
    finally:
        place.unlink()
