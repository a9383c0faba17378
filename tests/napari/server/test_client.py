"""The client of MONAI Label against a small server that answers as its documentation says."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import ClassVar
from urllib.parse import parse_qs, urlsplit

import nibabel as nib
import numpy as np
import pytest

pytest.importorskip("napari", reason="the extra medvit[napari] is not installed")

from medvit_napari.errors import ServerError
from medvit_napari.reading.layer_info import KEY
from medvit_napari.reading.layers import label_layers
from medvit_napari.reading.open import open_layers
from medvit_napari.saving.save_labels import save_layer
from medvit_napari.server.client import Client, _told
from napari.layers import Layer

import medvit
from medvit.progress import Cancelled, Progress
from tests.bands import make_bundle, oblique_affine, phantom
from tests.label.learning import make_cases, make_learning_bundle, wait_for

pytestmark = pytest.mark.usefixtures("warm_servers")

INFO = {
    "name": "a server",
    "models": {"heads": {"labels": {"brain": 1, "cord": 2}}, "spleen": {"labels": ["spleen"]}},
    "strategies": {"random": {}, "first": {}},
    "trainers": {"heads": {}},
}


class Answers(BaseHTTPRequestHandler):
    """Documented endpoints; what was sent is kept."""

    seen: ClassVar[list[tuple[str, str, bytes]]] = []
    image = b""
    cases: ClassVar[list[str]] = ["case 7"]

    def log_message(self, *_):
        """Quiet."""

    def _go(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        asked = {k: v[0] for k, v in parse_qs(parts.query).items()}
        self.seen.append((f"{self.command} {parts.path}", json.dumps(asked), body))
        if parts.path == "/info/":
            return self._send(json.dumps(INFO).encode())
        if parts.path.startswith("/activelearning/"):
            return self._send(json.dumps({"id": self.cases[0]} if self.cases else {}).encode())
        if parts.path == "/datastore/image" or parts.path == "/infer/heads":
            return self._send(self.image, "../Doe^John.nii.gz")
        if parts.path == "/train/heads" or parts.path == "/datastore/label":
            return self._send(b"{}")
        if parts.path == "/train/":
            return self._send(json.dumps({"status": "RUNNING"}).encode())
        self.send_response(404)
        self.end_headers()
        self.wfile.write(json.dumps({"detail": "no such model"}).encode())
        return None

    do_GET = do_POST = do_PUT = do_DELETE = _go  # noqa: N815 - the library's names

    def _send(self, content: bytes, name: str = ""):
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        if name:
            self.send_header("Content-Disposition", f'attachment; filename="{name}"')
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def server(examples):
    Answers.seen, Answers.image, Answers.cases = [], (examples / "headneck_ct.nii.gz").read_bytes(), ["case 7"]
    here = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    Thread(target=here.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{here.server_port}/"
    here.shutdown()
    here.server_close()


def test_a_case_from_next_to_submitted(server, examples, tmp_path):
    client = Client(server)
    info = client.info()
    assert info.strategies == ("random", "first") and info.trainers == ("heads",)
    assert [(n.id, n.title) for n in info.labels("heads")] == [(1, "brain"), (2, "cord")]
    assert [(n.id, n.title) for n in info.labels("spleen")] == [(1, "spleen")]
    case = client.next_case("first", tmp_path)
    assert case.id == "case 7" and case.path.read_bytes() == Answers.image
    assert case.path.parent == tmp_path and "Doe" not in case.path.name and case.path.name.endswith(".nii.gz")
    assert client.infer("heads", case.id, tmp_path).read_bytes() == Answers.image
    client.save_label(case.id, examples / "headneck_ct.nii.gz", "final", {"brain": 1})
    what, asked, body = Answers.seen[-1]
    assert what == "PUT /datastore/label" and json.loads(asked) == {"image": "case 7", "tag": "final"}
    assert Answers.image in body and b'"label_info": [{"name": "brain", "idx": 1}]' in body
    client.train("heads")
    assert client.training() == "RUNNING"
    assert client.stop_training() and Answers.seen[-1][0] == "DELETE /train/"


def test_what_goes_wrong_is_said(server, tmp_path):
    with pytest.raises(ServerError, match="a server address is needed"):
        Client("file:///etc")
    with pytest.raises(ServerError, match="404: no such model"):
        Client(server).infer("none", "x", tmp_path)
    Answers.cases = []
    with pytest.raises(ServerError, match="every image has its label"):
        Client(server).next_case("first", tmp_path)
    with pytest.raises(ServerError, match="Found no answer of"):
        Client("http://127.0.0.1:9").info()
    Answers.cases = ["case 7"]
    stopped = Progress()
    stopped.cancel()
    with pytest.raises(Cancelled):
        Client(server).next_case("first", tmp_path, stopped)
    kept = dict(INFO)
    INFO["models"] = ["not a mapping"]
    try:
        with pytest.raises(ServerError, match="that is not MONAI Label's"):
            Client(server).info()
    finally:
        INFO.update(kept)
    assert list(Path(tmp_path).iterdir()) == []


def _answering(send) -> tuple[socket.socket, str]:
    """A server that takes one connection, reads a little and does what it is told."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            line, _ = listening.accept()
            heard = b""
            while not heard.endswith(b"--\r\n"):  # all of the form, or closing would reset the line
                heard += line.recv(4096)
            send(line)
            line.close()

    Thread(target=serve, daemon=True).start()
    return listening, f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\nshort", "broke off after 5 of 5000 bytes"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nFF\r\nshort", "IncompleteRead"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n", "no length that is a number"),
        (b"nothing of the kind\r\n\r\n", "nothing of the kind"),
        (b"", "closed connection|reset"),
    ],
)
def test_a_server_that_goes_away_in_the_middle(tmp_path, head, words):
    listening, address = _answering(lambda line: line.sendall(head))
    with listening, pytest.raises(ServerError, match=f"Found no answer of {address}.*({words})"):
        Client(address).infer("heads", "case 7", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_cancelling_does_not_wait_for_a_silent_server(tmp_path):
    """A cancel takes effect before the answer begins and in the middle of it; the waiting thread ends too."""
    for head in (b"", b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\nshort"):
        gone, heard = Event(), Event()

        def send(line, head=head, gone=gone, heard=heard) -> None:
            line.sendall(head)
            heard.set()
            gone.wait(60)

        listening, address = _answering(send)
        progress, began = Progress(), time.monotonic()
        Thread(target=lambda heard=heard, progress=progress: (heard.wait(30), progress.cancel()), daemon=True).start()
        with listening, pytest.raises(Cancelled):
            Client(address).infer("heads", "case 7", tmp_path, progress)
        assert time.monotonic() - began < 30
        until = time.monotonic() + 30
        while any(t.name == "medvit-server" for t in threading.enumerate()):
            assert time.monotonic() < until, "a thread still waits for the server"
            time.sleep(0.02)
        gone.set()


@pytest.fixture
def our_own(tmp_path, monkeypatch):
    """medvit's annotation server over one oblique image; its address, and a token that it asks for."""
    pytest.importorskip("fastapi", reason="the extra medvit[label] is not installed")
    from medvit_label.self_test import running

    (tmp_path / "studies").mkdir()
    make_bundle(tmp_path / "bundles" / "bands")
    nib.save(nib.Nifti1Image(phantom()[0].astype(np.float32), oblique_affine()), tmp_path / "studies" / "scan.nii.gz")
    monkeypatch.setenv("MEDVIT_BUNDLES", str(tmp_path / "bundles"))
    token = "a-token-only-for-tests-0123456789"
    options = ("--bundle", "bands", "--state", str(tmp_path / "state"))
    with running(str(tmp_path / "studies"), *options, log=tmp_path / "log.txt", token=token) as (url, _):
        yield url, token


@pytest.mark.soak
def test_a_case_of_our_own_server(our_own, tmp_path):
    url, token = our_own
    with pytest.raises(ServerError, match="refused /info/ .401"):
        Client(url).info()
    client, here = Client(url, token), tmp_path / "here"
    here.mkdir()
    info = client.info()
    assert set(info.strategies) >= {"first", "random"} and info.trainers == ("bands",)
    case = client.next_case("first", here)
    place = open_layers(case.path)[0][1]["metadata"][KEY]
    answer = medvit.read_labels(client.infer("bands", case.id, here), like=place.scan(), table=info.labels("bands"))
    ((data, options, kind),) = label_layers(answer, place.scan())
    labels = Layer.create(data, options, kind)
    expected = np.asarray(medvit.segment(case.path, tmp_path / "bundles" / "bands").labels)[0]
    assert np.array_equal(place.grid.back(labels.data), expected) and expected.any()
    labels.data[3:6, 3:6, 3:6] = 7
    save_layer(labels, here / "out", ("nifti",))
    client.save_label(case.id, here / "out" / "labels.nii.gz", "final", {n.title: n.id for n in info.labels("bands")})
    (kept,) = (tmp_path / "state").rglob("labels.nii.gz")
    assert np.array_equal(np.asarray(nib.load(kept).dataobj), place.grid.back(labels.data))
    with pytest.raises(ServerError, match="every image has its label"):
        client.next_case("first", here)
    with pytest.raises(ServerError, match="refused /train/bands .4"):
        client.train("bands")


def test_what_a_server_says_of_its_training_is_put_into_words():
    assert _told({}) == "unknown"
    assert _told({"status": "RUNNING", "start_ts": "2026"}) == "RUNNING"  # MONAI Label's own
    assert _told({"status": "RUNNING", "done": 20, "total": 60, "published": None}) == "RUNNING, step 20 of 60"
    better = {
        "status": "DONE",
        "done": 60,
        "total": 60,
        "metric": "mean_dice",
        "before": 0.5,
        "after": 0.75,
        "published": 2,
    }
    assert _told(better) == "DONE, step 60 of 60, mean_dice 0.500 -> 0.750, published as version 2"
    worse = better | {"after": 0.25, "published": 0, "reason": "no better"}
    assert _told(worse) == "DONE, step 60 of 60, mean_dice 0.500 -> 0.250, no better"


@pytest.mark.soak
def test_our_own_server_trains_and_answers_with_the_new_version(tmp_path, monkeypatch):
    """From the plugin: submit final labels, start, look how far it is, and infer again."""
    pytest.importorskip("fastapi", reason="the extra medvit[label] is not installed")
    from medvit_label.self_test import running

    bundle = make_learning_bundle(tmp_path / "bundles" / "bands")
    names = make_cases(tmp_path / "studies", tmp_path / "truth", 6)
    monkeypatch.setenv("MEDVIT_BUNDLES", str(bundle.parent))
    options = ("--bundle", "bands", "--state", str(tmp_path / "state"))
    with running(str(tmp_path / "studies"), *options, log=tmp_path / "log.txt") as (url, _):
        client = Client(url)
        titles = {label.title: label.id for label in client.info().labels("bands")}
        truth = np.asarray(nib.load(tmp_path / "truth" / "case5.nii.gz").dataobj)

        def share() -> float:
            (tmp_path / "answer").mkdir(exist_ok=True)
            found = np.asarray(nib.load(client.infer("bands", "case5", tmp_path / "answer")).dataobj)
            return float(((found == truth) & (truth > 0)).sum() / (truth > 0).sum())

        before = share()
        for name in names[:5]:
            client.save_label(name, tmp_path / "truth" / f"{name}.nii.gz", "final", titles)
        client.train("bands")
        said = wait_for(lambda: (words := client.training()).startswith(("DONE", "ERROR", "CANCELED")) and words, 600)
        assert said.startswith("DONE, step 200 of 200, mean_dice") and said.endswith("published as version 1")
        assert share() > before + 0.05
