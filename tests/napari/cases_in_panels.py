"""Checks of ``test_panels`` with a label server: each submit goes to its own case and annotator."""

from __future__ import annotations

import json
import re
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from urllib.parse import parse_qs, urlsplit

import nibabel as nib
import numpy as np
from napari.components import ViewerModel

from tests.bands import oblique_affine, phantom
from tests.napari.driving import close_boxes, done, opened, said, until, widget

CASES = {"case A": (41, 37, 29), "case B": (36, 30, 24)}
INFO = {"name": "a server", "models": {"bands": {"labels": {"low": 1, "high": 2}}}, "strategies": {"first": {}}}


TOLD = {
    "quality": {"rating": "poor", "reasons": ["left and right are exchanged"]},
    "notes": ["2 corrections are kept."],
}


def in_both_parts(said: dict, file: bytes) -> bytes:
    """An answer as MONAI Label sends it: the fields ``params`` and ``image`` of a form."""
    form = 'Content-Disposition: form-data; name="{}"{}\r\nContent-Type: {}\r\n\r\n'
    head = "--mark\r\n" + form.format("params", "", "application/json") + json.dumps(said) + "\r\n--mark\r\n"
    head += form.format("image", '; filename="labels.nii.gz"', "application/octet-stream")
    return head.encode() + file + b"\r\n--mark--\r\n"


class Server:
    """Two images on grids of their own; what is submitted is kept as (image, tag, params, array)."""

    def __init__(self, folder: Path, accounts: dict[str, str] | None = None) -> None:
        self.folder, self.accounts = folder, accounts or {}
        self.queue, self.kept = list(CASES), []
        self.forgotten: set[str] = set()
        self.clients: list[str] = []
        self.tells = False
        self.gate = Event()
        self.gate.set()
        folder.mkdir(parents=True)
        for name, shape in CASES.items():
            values, truth = phantom(shape)
            affine = oblique_affine() if name == "case A" else np.diag([2.0, 2.0, 3.0, 1.0])
            nib.save(nib.Nifti1Image(values, affine), self.file(name))
            nib.save(nib.Nifti1Image(np.minimum(truth, 2).astype(np.uint8), affine), self.file(name, "answer"))

    def file(self, name: str, what: str = "image") -> Path:
        return self.folder / f"{name} {what}.nii.gz"

    def answer(self, method: str, path: str, query: dict[str, str], body: bytes, token: str) -> tuple[int, bytes]:
        if path == "/auth/token":
            sent = {key: value[0] for key, value in parse_qs(body.decode()).items()}
            good = self.accounts.get(sent.get("username", "")) == sent.get("password", "")
            said = {"access_token": f"token of {sent['username']}"} if good else {"detail": "no such account"}
            return (200 if good else 401), json.dumps(said).encode()
        if self.accounts and token not in {f"Bearer token of {name}" for name in self.accounts}:
            return 401, b'{"detail": "a name and password are needed"}'
        if path == "/info/":
            return 200, json.dumps(INFO).encode()
        if path.startswith("/activelearning/"):
            self.clients.append(json.loads(body)["client_id"])
            told = "It is the first. Ben works on this image too." if self.tells else ""
            return 200, json.dumps({"id": self.queue.pop(0), "reason": told} if self.queue else {}).encode()
        name = query.get("image", "")
        if name in self.forgotten:
            return 404, b'{"detail": "no such image"}'
        if path == "/datastore/image":
            self.gate.wait(60)
            return 200, self.file(name).read_bytes()
        if path.startswith("/infer/"):
            assert query["output"] == "all"
            file = self.file(name, "answer").read_bytes()
            return 200, in_both_parts(TOLD, file) if self.tells else file
        assert (method, path) == ("PUT", "/datastore/label"), path
        return self.keep(name, query["tag"], body)

    def keep(self, name: str, tag: str, body: bytes) -> tuple[int, bytes]:
        mark = re.match(rb"--(\w+)\r\n", body)[1]
        params, label = (part.partition(b"\r\n\r\n")[2][:-2] for part in body.split(b"--" + mark)[1:3])
        self.folder.joinpath("sent.nii.gz").write_bytes(label)
        array = np.asarray(nib.load(self.folder / "sent.nii.gz").dataobj).copy()
        self.kept.append((name, tag, json.loads(params), array))
        return 200, json.dumps({"notes": ["kept as version 1"]}).encode()


@contextmanager
def serving(server: Server):
    class Answers(BaseHTTPRequestHandler):
        def log_message(self, *_):
            """Quiet."""

        def _go(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = urlsplit(self.path)
            query = {key: value[0] for key, value in parse_qs(parts.query).items()}
            token = self.headers.get("Authorization", "")
            code, content = server.answer(self.command, parts.path, query, body, token)
            self.send_response(code)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = _go  # noqa: N815 - the library's names

    here = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    Thread(target=here.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{here.server_port}"
    server.gate.set()
    here.shutdown()
    here.server_close()


def click(panel, *names: str) -> None:
    for name in names:
        panel.buttons[name].click()
        done(panel)


def refused(panel, words: str) -> None:
    """Submit is refused with a message; nothing is sent."""
    panel.buttons["Submit"].click()
    until(lambda: panel.job is None)
    assert re.search(words, panel.status.text()), panel.status.text()
    close_boxes()


def what_the_server_says_is_shown(place: Path) -> None:
    """The rating of an answer, kept corrections and others at work on the image reach the window."""
    server, viewer = Server(place / "told"), ViewerModel()
    server.tells = True
    with serving(server) as url:
        panel = widget(viewer, "medvit.server")
        panel.address.setText(url)
        click(panel, "Connect", "Next case")
        assert "Ben works on this image too." in panel.status.text()
        said()
        click(panel, "Infer")
        line = "Rating: poor (left and right are exchanged)."
        assert line in panel.status.text() and "2 corrections are kept." in panel.status.text()
        assert any(kind == "warning" and line in words for kind, words in said())
        assert panel.labels.layer().metadata["medvit"].quality["rating"] == "poor"


def two_cases_at_once(place: Path) -> None:
    """Labels of an earlier case go to that case, whatever was taken last; its layers are put away."""
    server, viewer = Server(place / "two"), ViewerModel()
    with serving(server) as url:
        panel = widget(viewer, "medvit.server")
        panel.address.setText(url)
        panel.annotator.setText("reader one")
        click(panel, "Connect", "Next case", "Infer")
        first = panel.labels.layer()
        assert "case A" in panel.status.text() and "case A" in panel.case_choice.currentText()
        click(panel, "Next case")
        assert "case B" in panel.status.text() and "case B" in panel.case_choice.currentText()
        assert not first.visible and panel.labels.layer() is None  # no label of an earlier case stays chosen
        refused(panel, "Found no labels of a case; both are needed")
        assert server.kept == []
        stranger = made_elsewhere(viewer, place)
        panel.labels.choose(stranger)
        refused(
            panel,
            r"which belong to no open case, on 9 x 8 x 7 voxels where the image of case 2: case B has 36 x 30 x 24",
        )
        viewer.layers.remove(stranger)
        panel.labels.choose(first)
        first.data[2:4, 2:4, 2:4] = 2
        click(panel, "Submit")
        (name, tag, params, array), = server.kept  # fmt: skip
        assert (name, tag, array.shape) == ("case A", "final", CASES["case A"])
        assert params["client_id"] == "reader one" and server.clients == ["reader one"] * 2
        assert params["label_info"] == [{"name": "low", "idx": 1}, {"name": "high", "idx": 2}]
        text = panel.status.text()
        assert "Submitted for case 1: case A, tag final" in text and "kept as version 1" in text, text
        assert first not in viewer.layers and [layer.name for layer in viewer.layers] == ["NIfTI 24 slices (case 2)"]
        assert panel.case.id == "case B" and viewer.layers[0].visible
        of_the_second(panel, server, viewer)
        panel.close()


def made_elsewhere(viewer, place: Path):
    """Labels on a file of the user's own."""
    nib.save(nib.Nifti1Image(np.arange(504.0).reshape(9, 8, 7), np.diag([2.0, 2, 3, 1])), place / "own.nii.gz")
    (image,) = opened(viewer, place / "own.nii.gz")
    save = widget(viewer, "medvit.save")
    save.image.choose(image)
    save.new_button.click()
    labels = viewer.layers[-1]
    labels.data[2:4, 2:4, 2:4] = 1
    viewer.layers.remove(image)
    save.close()
    return labels


def of_the_second(panel, server: Server, viewer) -> None:
    """Empty labels, an image and labels removed by hand, a resized layer, a tag that is not final, a case the server forgot."""
    save = widget(viewer, "medvit.save")
    save.image.choose(panel.image)
    save.new_button.click()
    labels = viewer.layers[-1]
    assert panel.labels.layer() is labels  # labels on the image of the case at work are chosen
    refused(panel, "Found no labelled voxel in 'Labels' for case 2: case B")
    viewer.layers.remove(panel.image)
    labels.data[5:8, 5:8, 5:8] = 1
    whole = labels.data
    labels.data = whole[:-2]
    refused(panel, r"\(36, 30, 22\) voxels where its image has \(36, 30, 24\)")
    labels.data = whole
    panel.tag.setText("draft")
    click(panel, "Submit")
    assert server.kept[-1][:2] == ("case B", "draft") and labels in viewer.layers
    assert server.kept[-1][2]["label_info"] == [{"name": "Segment 1", "idx": 1}]
    server.forgotten.add("case B")
    panel.tag.setText("final")
    refused(panel, r"404: no such image.*labels of case 2: case B were not submitted; they stay here")
    assert labels in viewer.layers and len(server.kept) == 2
    server.forgotten.clear()
    viewer.layers.remove(labels)
    refused(panel, "Found no labels of a case")
    save.close()


def while_the_next_is_fetched(place: Path) -> None:
    """A submit meanwhile sends nothing; afterwards nothing of the first case goes to the second."""
    server, viewer = Server(place / "fetching"), ViewerModel()
    with serving(server) as url:
        panel = widget(viewer, "medvit.server")
        panel.address.setText(url)
        click(panel, "Connect", "Next case", "Infer")
        first = panel.labels.layer()
        server.gate.clear()
        panel.buttons["Next case"].click()
        panel.buttons["Submit"].click()
        assert "Something is running already; nothing was submitted" in panel.status.text()
        server.gate.set()
        done(panel)
        assert server.kept == [] and first in viewer.layers
        panel.nothing.setChecked(True)
        save = widget(viewer, "medvit.save")
        save.image.choose(panel.image)
        save.new_button.click()
        click(panel, "Submit")  # an image without any of the structures, as a person says
        assert [kept[:2] for kept in server.kept] == [("case B", "final")] and not server.kept[0][3].any()
        assert first in viewer.layers and first.visible and panel.case.id == "case A"
        save.close()
        panel.close()


def with_a_login(place: Path) -> None:
    """The panel logs in at a server with accounts by the user and password of its fields; it reports a wrong password."""
    server, viewer = Server(place / "accounts", {"ann": "right"}), ViewerModel()
    with serving(server) as url:
        panel = widget(viewer, "medvit.server")
        panel.address.setText(url)
        for user, password, words in (("", "", "Type the user and the password"), ("ann", "wrong", "no such account")):
            panel.user.setText(user)
            panel.password.setText(password)
            panel.buttons["Connect"].click()
            until(lambda: panel.job is None)
            assert "401" in panel.status.text() and words in panel.status.text(), panel.status.text()
            close_boxes()
        panel.password.setText("right")
        click(panel, "Connect", "Next case", "Infer", "Submit")
        assert server.kept[0][0] == "case A" and server.kept[0][2]["client_id"] == "ann"
        panel.close()


def submits_belong_to_their_case(place: Path) -> None:
    """All of it."""
    place.mkdir()
    what_the_server_says_is_shown(place)
    two_cases_at_once(place)
    while_the_next_is_fetched(place)
    with_a_login(place)
