"""What the server refuses and in which words: what was found, what is needed, one step to take."""

from __future__ import annotations

import io
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from medvit_label.dependencies import _require
from medvit_label.errors import AccessError, ArchiveError, GoneError, RequestError, UnknownError, request_words
from medvit_label.images.local import LocalImages
from medvit_label.inference.strokes import read_strokes
from medvit_label.journal import JOURNAL, Journal
from medvit_label.labels.label_files import label_map

from medvit.bundles import open_bundle
from medvit.errors import BackendError, OutputError
from tests.label.conftest import TOKEN, Project

requests = pytest.importorskip("requests")


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("GET", "/datastore/image?image=nobody", 404, "Found no image 'nobody' in the project; ask for one that is listed"),
        ("GET", "/datastore/label?label=scan&tag=draft", 404, "Found no 'draft' label of 'scan'; ask for one that is listed"),
        ("HEAD", "/datastore/image?image=scan&check_sum=SHA256:00", 404, ""),
        ("DELETE", "/datastore/?id=scan", 403, "the server never changes originals. Take the file out of the folder yourself"),
        ("POST", "/infer/bands?image=scan&output=pdf", 400, "Found output 'pdf'; it must be one of image, json, all, dicom_seg"),
        ("POST", "/infer/bands", 400, "Found neither an image, a file nor a session in the request; name one"),
        ("POST", "/infer/nobody?image=scan", 404, "Found no model 'nobody' on this server; it offers: bands. Ask for one"),
        ("POST", "/activelearning/guess", 404, "Found no strategy 'guess'; there are: first, random, quality. Ask for one"),
        ("GET", "/session/nobody", 404, "Found no session 'nobody'; it may have expired. Create it again"),
        ("GET", "/queue/nobody", 404, "Found no job 'nobody'; ask for one that is listed. See GET /queue/"),
        ("GET", "/train/?check_if_running=true", 404, "Found no training that runs; start one: POST /train/MODEL"),
        ("GET", "/batch/infer", 404, "Found no batch yet; start one: POST /batch/infer/MODEL"),
        ("POST", "/train/nobody", 404, "Found no model 'nobody' on this server; it offers: bands. Ask for one"),
        ("PUT", "/model/bands", 403, "it takes none, since a model file can run code. Use medvit bundles fetch"),
    ],
)  # fmt: skip
def test_a_request_that_cannot_be_met(project: Project, method: str, path: str, status: int, words: str) -> None:
    answer = requests.request(method, project.url + path, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60)
    assert answer.status_code == status
    assert method == "HEAD" or words in answer.json()["detail"]


@pytest.mark.parametrize(
    ("path", "form", "words"),
    [
        ("/infer/bands?image=scan", {"params": "[1]"}, "Found params that are not a JSON object (it is no object); send one, or none"),
        ("/infer/bands?image=scan", {"params": "{"}, "Found params that are not a JSON object"),
        ("/infer/bands?image=scan", {"params": '{"result_dtype": "text"}'}, "Found params.result_dtype"),
    ],
)  # fmt: skip
def test_params_that_mean_nothing(project: Project, path: str, form: dict[str, str], words: str) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    answer = requests.post(project.url + path, form, headers=headers, timeout=60)
    assert answer.status_code == 400 and words in answer.json()["detail"]


def test_uploads_and_passwords(project: Project) -> None:
    headers: dict[str, Any] = {"Authorization": f"Bearer {TOKEN}"}
    address = f"{project.url}/datastore/label?image=scan&tag=Final"
    files = {"label": ("l.nii.gz", (project.studies / "scan.nii.gz").read_bytes())}
    answer = requests.put(address, files=files, headers=headers, timeout=60)
    assert "a tag is a word of small letters and digits. Use 'final' or 'original'" in answer.json()["detail"]
    files = {"label": ("l.docx", b"1")}
    answer = requests.put(address, files=files, headers=headers, timeout=60)
    assert answer.status_code == 400
    assert "Found an upload whose name ends in '.docx'; accepted are .nii.gz" in answer.json()["detail"]
    answer = requests.post(f"{project.url}/auth/token", {"username": "a", "password": "b"}, timeout=60)
    assert (
        answer.status_code == 401 and "the token that the server was started with is needed" in answer.json()["detail"]
    )


def test_an_image_that_was_taken_away(tmp_path: Path) -> None:
    (tmp_path / "scan.nii").write_bytes(b"1")
    images = LocalImages(tmp_path, tmp_path / "labels")
    assert list(images.listed()) == ["scan"]
    (tmp_path / "scan.nii").unlink()
    with pytest.raises(GoneError, match="was removed from the project's folder; put it back, or ask for another"):
        images.find("scan")


def test_strokes_that_mean_nothing(project: Project) -> None:
    bundle, shape = open_bundle(project.bundle), (4, 5, 6)
    with pytest.raises(RequestError, match="Found no click and no scribble; draw at least one"):
        read_strokes({}, bundle, shape, None)
    with pytest.raises(
        RequestError, match=r"Found scribbles with ids other than .* and 255; the bundle has no other labels"
    ):
        read_strokes({}, bundle, shape, np.full(shape, 99, np.int16))


def test_labels_that_are_no_ids(tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "cut.png").write_bytes(b"\x89PNG")
    with pytest.raises(OutputError, match="Found a label that cannot be read as a PNG .*; send a complete one"):
        label_map(tmp_path / "cut.png")
    Image.fromarray(np.zeros((3, 3, 3), np.uint8)).save(tmp_path / "colour.png")
    with pytest.raises(RequestError, match="one number a pixel .* is needed. Save ids, not colours"):
        label_map(tmp_path / "colour.png")


def test_what_is_missing_on_the_machine(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        OutputError, match="Found that labels cannot be kept in .* a folder that can be written is needed. Give --state"
    ):
        Journal(tmp_path / "file")
    Journal(tmp_path / "state").close()
    with closing(sqlite3.connect(tmp_path / "state" / JOURNAL)) as base:
        base.execute("PRAGMA user_version = 1")
    with pytest.raises(
        OutputError, match="Found a journal of version 1 in .*; version 0 is needed. Update medvit, or give"
    ):
        Journal(tmp_path / "state")
    with pytest.raises(
        BackendError, match="Found no nobody_has_this installed; the label server needs it. Run: pip install"
    ):
        _require(("json", "nobody_has_this"), "the label server", "Run: pip install 'medvit[label]'.")


class _Silent:
    """A DICOMweb service that lists one series and has lost its slices, or refuses what it is sent."""

    def search_for_series(self, **asked: Any) -> list[dict[str, Any]]:
        return [{"0020000E": {"Value": ["1.2.3"]}, "0020000D": {"Value": ["1.2"]}}]

    def retrieve_series(self, study: str, series: str) -> list[Any]:
        return []

    def store_instances(self, datasets: list[Any]) -> Any:
        import pydicom

        return pydicom.Dataset.from_json({"00081198": {"vr": "SQ", "Value": [{}]}})


def test_a_dicomweb_service_that_has_lost_an_image(tmp_path: Path) -> None:
    pytest.importorskip("dicomweb_client")
    import pydicom
    from medvit_label.images.dicomweb import DicomWebImages

    from medvit.io.dicom import Login

    images = DicomWebImages("http://127.0.0.1:9/dicom-web", tmp_path, ("CT",), Login())
    with pytest.raises(
        ArchiveError, match=r"the DICOMweb service cannot be reached \(ConnectionError\); a DICOMweb server is needed"
    ):
        images.listed()
    images._client = _Silent()  # a service that answers so cannot be had from Orthanc
    with pytest.raises(UnknownError, match="Found no series '9' at the DICOMweb service; ask for one that is listed"):
        images.find("9")
    with pytest.raises(
        GoneError, match="Found no slices of series 1.2.3; it was removed from the service. Ask for another"
    ):
        images.find("1.2.3")
    with pytest.raises(AccessError, match="this server cannot add images to it. Send it to the archive itself"):
        images.add("x", tmp_path / "x.nii")
    seg = pydicom.Dataset()
    seg.SOPClassUID, seg.SOPInstanceUID, seg.SeriesInstanceUID = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.3.4", "1.2.3"
    packed = io.BytesIO()
    seg.file_meta = pydicom.dataset.FileMetaDataset()
    seg.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    seg.save_as(packed, enforce_file_format=True)
    (tmp_path / "seg.dcm").write_bytes(packed.getvalue())
    with pytest.raises(ArchiveError, match="refused the SEG; the label is kept here. See the service's log"):
        images.store(tmp_path / "seg.dcm")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("on_irregular", "split", "params.on_irregular=split"),
        ("force", "True", "params.force=true"),
        ("pixel_spacing_mm", None, "params.pixel_spacing"),
        ("lat", "...", "params.lateral"),
        ("medvit.io.limit_memory()", "'4GB'", "--memory-limit 4GB"),
        ("device", "cpu", "--device cpu"),
    ],
)
def test_fields_of_a_request_and_options_of_the_server(name, value, words):
    assert request_words(name, value) == words
