"""What the server must not do, whoever asks."""

from __future__ import annotations

import io
import pickle
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.io.test_memory_limits import nifti_bomb
from tests.label.conftest import TOKEN, Project

requests = pytest.importorskip("requests")
HEADERS = {"Authorization": f"Bearer {TOKEN}"}


def ask(project: Project, method: str, path: str, **more: Any):
    more.setdefault("headers", HEADERS)
    return requests.request(method, project.url + path, timeout=60, **more)


def test_nothing_is_told_without_the_token(project: Project) -> None:
    for path in ("/info/", "/datastore/?output=all", "/datastore/image?image=scan", "/queue/", "/openapi.json"):
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}):
            answer = ask(project, "GET", path, headers=headers)
            assert answer.status_code == 401 and "token" in answer.json()["detail"], path


@pytest.mark.parametrize(
    "name", ["../state/journal.sqlite", "/etc/passwd", "..%2f..%2fetc%2fpasswd", "scan/../scan", ".", ""]
)
def test_an_image_id_never_becomes_a_path(project: Project, name: str) -> None:
    for path in (
        f"/datastore/image?image={name}",
        f"/datastore/label?label={name}&tag=final",
        f"/datastore/image/info?image={name}",
    ):
        assert ask(project, "GET", path).status_code in (404, 422), path
    assert ask(project, "POST", f"/infer/bands?image={name}").status_code in (400, 404)


@pytest.mark.parametrize("name", ["../x", "a/b", "..", "x\x00y", "a" * 200, "-x"])
def test_an_upload_cannot_choose_where_it_goes(project: Project, name: str) -> None:
    before = sorted(project.studies.rglob("*"))
    content = (project.studies / "scan.nii.gz").read_bytes()
    answer = ask(project, "PUT", "/datastore/", params={"image": name}, files={"file": ("scan.nii.gz", content)})
    assert answer.status_code == 400 and "names are" in answer.json()["detail"]
    assert sorted(project.studies.rglob("*")) == before


@pytest.mark.parametrize("tag", ["../final", "a/b", "FINAL", ""])
def test_a_tag_is_a_word(project: Project, tag: str) -> None:
    content = (project.studies / "scan.nii.gz").read_bytes()
    answer = ask(
        project, "PUT", "/datastore/label", params={"image": "scan", "tag": tag}, files={"label": ("l.nii.gz", content)}
    )
    assert answer.status_code in (400, 422)


def test_an_image_is_never_overwritten_or_deleted(project: Project) -> None:
    before = (project.studies / "scan.nii.gz").read_bytes()
    answer = ask(project, "PUT", "/datastore/", params={"image": "scan"}, files={"file": ("s.nii.gz", before)})
    assert answer.status_code == 400 and "nothing is overwritten" in answer.json()["detail"]
    assert ask(project, "DELETE", "/datastore/?id=scan").status_code == 403
    assert (project.studies / "scan.nii.gz").read_bytes() == before


def test_a_zip_that_points_outside_is_refused(project: Project, tmp_path: Path) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("../../evil.dcm", b"x" * 200)
    answer = ask(project, "PUT", "/session/?uncompress=true", files={"files": ("s.zip", content.getvalue())})
    assert answer.status_code == 422 and "points outside" in answer.json()["detail"]
    assert not list(project.state.rglob("evil*"))


class _Bomb:
    def __reduce__(self):
        return (open, ("/tmp/medvit-label-was-here", "w"))


def test_a_volume_that_unpacks_to_terabytes_is_refused_by_its_header(project: Project, tmp_path: Path) -> None:
    bomb = nifti_bomb(tmp_path / "bomb.nii.gz", (8000, 8000, 8000)).read_bytes()
    for path, parameters, field in (
        ("/datastore/", {"image": "new"}, "file"),
        ("/datastore/label", {"image": "scan", "tag": "final"}, "label"),
    ):
        answer = ask(project, "PUT", path, params=parameters, files={field: ("bomb.nii.gz", bomb)})
        assert answer.status_code in (400, 413, 422), answer.text
        assert "takes 2.0 TB of memory; the limit is" in answer.json()["detail"]
        assert "--memory-limit" in answer.json()["detail"]
    assert ask(project, "GET", "/info/").status_code == 200
    assert not list(project.studies.glob("new*"))


def test_a_pickle_is_never_loaded(project: Project) -> None:
    bomb = pickle.dumps(_Bomb())
    for method, path, field, name in (
        ("PUT", "/model/bands", "file", "model.pt"),
        ("PUT", "/datastore/", "file", "image.npy"),
        ("PUT", "/session/", "files", "image.pkl"),
        ("PUT", "/session/", "files", "image.nii.gz"),
        ("PUT", "/datastore/label?image=scan", "label", "label.nii.gz"),
    ):
        answer = ask(project, method, path, files={field: (name, bomb)})
        assert answer.status_code in (400, 403, 422), (path, answer.text)
    assert not Path("/tmp/medvit-label-was-here").exists()


def test_an_unknown_model_is_refused_by_name(project: Project) -> None:
    for name in ("liver", "../bands", "bands%2f..%2fbands"):
        answer = ask(project, "POST", f"/infer/{name}?image=scan")
        assert answer.status_code == 404
    assert "it offers: bands" in ask(project, "POST", "/infer/liver?image=scan").json()["detail"]


def test_more_bytes_than_the_limit_are_refused_declared_or_not(project: Project) -> None:
    declared = ask(project, "PUT", "/session/", data=b"x" * (3 * 2**20))
    assert declared.status_code == 413 and "2 MB" in declared.json()["detail"]

    def chunks():
        yield b'--m\r\nContent-Disposition: form-data; name="files"; filename="a.nii"\r\n\r\n'
        for _ in range(48):
            yield b"x" * 2**16

    undeclared = ask(
        project,
        "PUT",
        "/session/",
        data=chunks(),
        headers=HEADERS | {"Content-Type": "multipart/form-data; boundary=m"},
    )
    assert undeclared.status_code == 413


def test_another_hosts_name_or_page_is_refused(project: Project) -> None:
    assert ask(project, "GET", "/info/", headers=HEADERS | {"Host": "evil.example"}).status_code == 403
    assert ask(project, "GET", "/info/", headers=HEADERS | {"Origin": "http://evil.example"}).status_code == 403


def test_other_servers_cannot_be_reached_through_this_one(project: Project) -> None:
    assert ask(project, "GET", "/proxy/dicom/studies").status_code == 404
    assert ask(project, "GET", "/logs/").status_code == 404


@pytest.mark.parametrize("params", ["[1]", "{", '{"result_extension": ".exe"}', '{"device": "cuda:7"}'])
def test_params_that_mean_nothing_are_refused(project: Project, params: str) -> None:
    answer = ask(project, "POST", "/infer/bands?image=scan", data={"params": params})
    assert answer.status_code in (400, 422) and "Found" in answer.json()["detail"]


def test_a_case_that_cannot_be_run_says_why_without_a_path(project: Project) -> None:
    bad = project.studies / "flat.nii.gz"
    import nibabel as nib
    import numpy as np

    nib.save(nib.Nifti1Image(np.zeros((9, 9, 9), np.float32), np.eye(4)), bad)
    try:
        time.sleep(1.1)  # the server takes a listing to be true for a second
        answer = ask(project, "POST", "/infer/bands?image=flat")
        assert answer.status_code == 422 and "everywhere" in answer.json()["detail"]
        assert str(project.studies) not in answer.text
    finally:
        bad.unlink()
    assert ask(project, "POST", "/infer/bands?image=flat").status_code in (404, 410)


def test_the_log_names_nobody_and_no_image(project: Project) -> None:
    ask(project, "GET", f"/datastore/image?image={project.series}")
    ask(project, "POST", f"/infer/bands?image={project.series}")
    for _ in range(100):  # the line is written once the answer is sent
        if "POST /infer/{model} 200" in (log := project.log.read_text()):
            break
        time.sleep(0.1)
    assert "POST /infer/{model} 200" in log
    for secret in ("Secret", "Person", "ID-4711", "ACC-9", "19500102", project.series, TOKEN, "scan.nii"):
        assert secret not in log, secret


def test_a_server_open_to_others_needs_a_token(tmp_path: Path) -> None:
    from medvit_label.errors import AccessError
    from medvit_label.settings import ServerSettings

    with pytest.raises(AccessError, match="a token is needed there"):
        ServerSettings(studies=str(tmp_path), state=tmp_path / "s", host="0.0.0.0").check()
    with pytest.raises(AccessError, match="at least 16 are needed"):
        ServerSettings(studies=str(tmp_path), state=tmp_path / "s", host="0.0.0.0", token="short").check()


def test_outputs_of_ohif_and_slicer(project: Project, tmp_path: Path) -> None:
    """NRRD without compression (OHIF), bare JSON, and a DICOM SEG that refers to the series."""
    import pydicom
    import SimpleITK as sitk

    asked = {"params": '{"result_extension": ".nrrd", "result_dtype": "uint16", "result_compress": false}'}
    (tmp_path / "a.nrrd").write_bytes(
        ask(project, "POST", f"/infer/bands?image={project.series}&output=image", data=asked).content
    )
    assert sitk.ReadImage(str(tmp_path / "a.nrrd")).GetPixelIDTypeAsString() == "16-bit unsigned integer"
    assert b"encoding: raw" in (tmp_path / "a.nrrd").read_bytes()[:1000]
    assert "label_names" in ask(project, "POST", "/infer/bands?image=scan&output=json").json()
    (tmp_path / "s.dcm").write_bytes(
        ask(project, "POST", f"/infer/bands?image={project.series}&output=dicom_seg").content
    )
    assert pydicom.dcmread(tmp_path / "s.dcm").ReferencedSeriesSequence[0].SeriesInstanceUID == project.series
    refused = ask(project, "POST", "/infer/bands?image=scan&output=dicom_seg")
    assert refused.status_code == 422 and "refer to the original DICOM slices" in refused.json()["detail"]


def test_bare_voxels_from_ohif_become_a_label(project: Project) -> None:
    import numpy as np

    ids = np.zeros((31, 27, 19), np.uint8)
    ids[3:6, 4:9, 2:7] = 1
    put = {"params": {"image": project.series, "tag": "draft"}, "data": {"params": '{"model": "bands"}'}}
    answer = ask(project, "PUT", "/datastore/label", files={"label": ("label.bin", ids.tobytes(order="F"))}, **put)
    assert answer.status_code == 200, answer.text
    answer = ask(project, "PUT", "/datastore/label", files={"label": ("label.bin", b"123")}, **put)
    assert answer.status_code == 422 and "bare voxels" in answer.json()["detail"]
