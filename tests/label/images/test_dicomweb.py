"""An archive that wants a login, is busy, breaks off or refuses: what the server asks of it, and what becomes of labels."""

from __future__ import annotations

import json
import threading
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from medvit_label.errors import AccessError, ArchiveError
from medvit_label.images.source import LabelImage
from medvit_label.journal import Journal
from medvit_label.labels.store import LabelRepository
from medvit_label.self_test import running
from medvit_label.settings import ServerSettings
from typer.testing import CliRunner

from medvit.bundles import open_bundle
from medvit.errors import SourceError
from medvit.io.dicom import Login, read_login, web_client, web_words
from tests.bands import make_bundle, oblique_affine, phantom, write_series
from tests.nodes import free_port, orthanc

pytest.importorskip("dicomweb_client")
requests = pytest.importorskip("requests")

SECRET = "open-sesame-4711"
LOGIN = Login("reader", SECRET)


def _body(handler: BaseHTTPRequestHandler) -> bytes:
    if handler.headers.get("Transfer-Encoding") != "chunked":
        return handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
    pieces = []
    while size := int(handler.rfile.readline(), 16):
        pieces.append(handler.rfile.read(size))
        handler.rfile.readline()
    handler.rfile.readline()
    return b"".join(pieces)


@dataclass(kw_only=True)
class Archive:
    """A DICOMweb service without series that answers 401 without the right words, and first misbehaves as told."""

    faults: list[str] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    stored: list[int] = field(default_factory=list)
    url: str = ""
    allowed: str = "Basic " + b64encode(f"reader:{SECRET}".encode()).decode()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = _body(handler)
        fault = self.faults.pop(0) if self.faults else ""
        self.seen.append(fault or "answered")
        if fault == "gone":
            handler.connection.close()
            return
        status = int(fault) if fault.isdigit() else 200
        if handler.headers.get("Authorization") != self.allowed:
            status = 401
        if body and status == 200:
            self.stored.append(len(body))
        content = b"[]" if handler.command == "GET" else b"{}"
        handler.send_response(status)
        handler.send_header("Content-Type", "application/dicom+json")
        handler.send_header("Content-Length", str(len(content) + (100 if fault == "short" else 0)))
        handler.end_headers()
        handler.wfile.write(content)


@contextmanager
def serving(archive: Archive) -> Iterator[Archive]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            archive.answer(self)

        do_POST = do_GET  # noqa: N815  as the library calls it

        def log_message(self, *words: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    archive.url = f"http://127.0.0.1:{server.server_port}/dicom-web"
    try:
        yield archive
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def no_login_of_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("USER", "PASSWORD", "TOKEN"):
        monkeypatch.delenv(f"MEDVIT_DICOMWEB_{name}", raising=False)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medvit.io.dicom.dicomweb._PAUSES_S", (0.01, 0.01, 0.01))


def test_what_passes_is_waited_for() -> None:
    with serving(Archive(faults=["503", "gone", "short"])) as archive:
        assert web_client(archive.url, 5, LOGIN).search_for_studies() == []
        assert archive.seen == ["503", "gone", "short", "answered"]


def test_a_large_object_is_sent_whole_the_second_time(tmp_path: Path) -> None:
    path = write_series(tmp_path, np.zeros((800, 800, 1), np.int16), np.eye(4))[0]
    with serving(Archive(faults=["503"])) as archive:
        web_client(archive.url, 5, LOGIN).store_instances([pydicom.dcmread(path)])
        assert archive.seen == ["503", "answered"]
        assert archive.stored[0] > 800 * 800 * 2


@pytest.mark.parametrize("status", [503, 404])
def test_what_does_not_pass_is_told_in_the_family_of_errors(status: int) -> None:
    with serving(Archive(faults=[str(status)] * 9)) as archive:
        with pytest.raises(requests.HTTPError) as refused:
            web_client(archive.url, 5, LOGIN).search_for_studies()
        assert f"the archive answered HTTP {status}; a DICOMweb server is needed" in web_words(
            "the archive", refused.value
        )
        assert len(archive.seen) == (4 if status == 503 else 1)


def test_a_token_is_shown_as_bearer() -> None:
    with serving(Archive(allowed="Bearer abc")) as archive:
        assert web_client(archive.url, 5, Login(token="abc")).search_for_studies() == []


def test_a_login_comes_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "login"
    file.write_text(f"# of the archive\nMEDVIT_DICOMWEB_USER=reader\nMEDVIT_DICOMWEB_PASSWORD={SECRET}\n")
    assert read_login(file) == LOGIN
    assert SECRET not in repr(LOGIN)
    assert not read_login()
    monkeypatch.setenv("MEDVIT_DICOMWEB_TOKEN", "abc")
    assert read_login() == Login(token="abc")
    file.write_text("reader\n")
    with pytest.raises(
        SourceError, match="Found no login in .*; lines MEDVIT_DICOMWEB_USER=.* are needed. Correct the file"
    ):
        read_login(file)
    with pytest.raises(SourceError, match="Found no readable login in .* a text file is needed. Check file"):
        read_login(tmp_path / "none")


def test_a_password_in_the_address_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AccessError, match="Found a user or password in the address of --studies") as refused:
        ServerSettings(studies=f"http://reader:{SECRET}@127.0.0.1/dicom-web", state=tmp_path).check()
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("command", ["start", "check"])
@pytest.mark.parametrize(
    ("login", "words"),
    [
        ("", "wants a login (HTTP 401); set MEDVIT_DICOMWEB_USER and MEDVIT_DICOMWEB_PASSWORD, or MEDVIT_DICOMWEB_TOKEN."),
        ("MEDVIT_DICOMWEB_USER=reader\nMEDVIT_DICOMWEB_PASSWORD=wrong-4711\n", "refuses the login (HTTP 401); a user or token with the right"),
    ],
)  # fmt: skip
def test_a_login_that_is_refused_is_said_at_once(tmp_path: Path, login: str, words: str, command: str) -> None:
    from medvit.cli.main import app

    options = ["label", command]
    if login:
        (tmp_path / "login").write_text(login)
        options += ["--login-file", str(tmp_path / "login")]
    with serving(Archive()) as archive:
        outcome = CliRunner().invoke(app, [*options, "--studies", archive.url])
    assert outcome.exit_code == 1
    told = " ".join(outcome.output.split())
    assert words in told
    assert "wrong-4711" not in told


def test_the_check_looks_at_an_archive_with_the_login_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medvit_label.self_test import _images_of

    pytest.importorskip("monailabel.client")
    monkeypatch.setenv("MEDVIT_BUNDLES", str(make_bundle(tmp_path / "bundles" / "bands").parent))
    (tmp_path / "login").write_text(f"MEDVIT_DICOMWEB_USER=reader\nMEDVIT_DICOMWEB_PASSWORD={SECRET}\n")
    with serving(Archive()) as archive:
        assert _images_of(archive.url, tmp_path / "login") == 0
    assert "answered" in archive.seen


class _Shelf:
    """An archive that takes nothing at first: what ``DicomWebImages`` is to the labels."""

    keeps_segs = True

    def __init__(self, image: LabelImage) -> None:
        self.image, self.open, self.kept = image, False, list[str]()

    def listed(self) -> dict[str, LabelImage]:
        return {self.image.id: self.image}

    def store(self, seg: Path) -> dict[str, Any]:
        if not self.open:
            raise ArchiveError("Found that the DICOMweb service answered HTTP 507; a DICOMweb server is needed.")
        self.kept.append(str(pydicom.dcmread(seg).SOPInstanceUID))
        return {}


def test_a_label_is_kept_when_the_archive_does_not_take_it_and_sent_with_the_next(tmp_path: Path) -> None:
    import nibabel as nib

    volume, ids = phantom((31, 27, 19))
    paths = write_series(tmp_path / "series", volume, oblique_affine())
    series = str(pydicom.dcmread(paths[0]).SeriesInstanceUID)
    nib.save(nib.Nifti1Image(ids, oblique_affine()), tmp_path / "labels.nii.gz")
    table = open_bundle(make_bundle(tmp_path / "bundles" / "bands")).facts.labels
    image = LabelImage(id=series, path=tmp_path / "series", series=series, study="1.2", modality="CT")
    shelf = _Shelf(image)
    store = LabelRepository(tmp_path / "state", Journal(tmp_path / "state"), shelf)  # type: ignore[arg-type]
    save: Callable[[], Any] = lambda: store.save(image, tmp_path / "labels.nii.gz", "final", table, {})  # noqa: E731
    first = save()
    assert "HTTP 507" in first.info["notes"][-1] and "sent again with the next label" in first.info["notes"][-1]
    assert store.latest(series, "final").info["archive"] == "waiting" and first.file.is_file()
    shelf.open = True
    second = save()
    assert second.info["archive"] == "stored" and len(shelf.kept) == 2
    assert {label.info["archive"] for label in store.all()} == {"stored"}


def test_orthanc_that_wants_a_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client_module = pytest.importorskip("monailabel.client")
    bundle = make_bundle(tmp_path / "bundles" / "bands")
    monkeypatch.setenv("MEDVIT_BUNDLES", str(bundle.parent))
    volume, _ = phantom((31, 27, 19))
    with orthanc(tmp_path / "db", free_port(), free_port(), f"reader:{SECRET}") as pacs:
        paths = write_series(tmp_path / "series", volume, oblique_affine())
        for path in paths:
            pacs.ask("/instances", path.read_bytes())
        series = str(pydicom.dcmread(paths[0]).SeriesInstanceUID)
        (tmp_path / "login").write_text(f"MEDVIT_DICOMWEB_USER=reader\nMEDVIT_DICOMWEB_PASSWORD={SECRET}\n")
        options = ("--bundle", "bands", "--state", str(tmp_path / "state"), "--login-file", str(tmp_path / "login"))
        with running(pacs.web, *options, log=tmp_path / "log.txt") as (server, _):
            client = client_module.MONAILabelClient(server, tmpdir=str(tmp_path))
            assert list(client.datastore()["objects"]) == [series]
            file, _ = client.infer("bands", series, {})
            assert client.save_label(series, file, "final", {"model": "bands"})["version"] == 1
            assert client.datastore()["objects"][series]["labels"]["final"]["info"]["archive"] == "stored"
        assert len(json.loads(pacs.ask("/series?expand")) or []) == 2
    assert SECRET not in (tmp_path / "log.txt").read_text()


def test_a_series_that_grows_at_the_archive_is_fetched_again_and_one_that_goes_is_gone(tmp_path: Path) -> None:
    from medvit_label.errors import UnknownError
    from medvit_label.images.dicomweb import DicomWebImages

    volume, _ = phantom((31, 27, 19))
    paths = write_series(tmp_path / "series", volume, oblique_affine())
    series = str(pydicom.dcmread(paths[0]).SeriesInstanceUID)
    with orthanc(tmp_path / "db", free_port(), free_port()) as pacs:
        for path in paths[:10]:
            pacs.ask("/instances", path.read_bytes())
        images = DicomWebImages(pacs.web, tmp_path / "cache", ("CT",), Login())
        before = images.find(series)
        states = [before.state()]
        assert len(list(before.path.iterdir())) == 10
        for path in paths[10:]:
            pacs.ask("/instances", path.read_bytes())
        images._listing.forget()
        after = images.find(series)
        states.append(after.state())
        assert len(list(after.path.iterdir())) == len(paths) and states[0] != states[1]
        assert images.find(series).state() == states[1]  # and is not fetched a third time
        found = json.loads(pacs.ask("/series"))[0]
        request = urllib.request.Request(f"http://127.0.0.1:{pacs.http}/series/{found}", method="DELETE")
        urllib.request.urlopen(request, timeout=10).close()
        images._listing.forget()
        with pytest.raises(UnknownError, match="Found no series"):
            images.find(series)
