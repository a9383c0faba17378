"""Client of MONAI Label's documented HTTP interface: models, next case, inference, labels, training. It needs no Qt.

The endpoints are those of MONAI Label 0.8: ``/auth/token``, ``/info/``, ``/activelearning/{strategy}``,
``/infer/{model}``, ``/datastore/image``, ``/datastore/label``, ``/train/{model}``.
"""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import Request

from medvit.io.labels import make_label, unique
from medvit.labels import Label
from medvit.progress import Progress
from medvit_napari.errors import ServerError
from medvit_napari.server.http_exchange import exchange

__all__ = ["Access", "Case", "Client", "ServerInfo", "Submission"]

_NO_LOGIN = 401
_ITS_FAULT = 500

_PATIENCE_S = 600.0
"""Seconds to wait for an answer: an inference on a CPU takes minutes, while a missing server is noticed at once."""


@dataclass(frozen=True)
class ServerInfo:
    """Models, strategies and trainers of a server.

    Attributes:
        name: name of the server's app.
        models: names of the models, each with the names of its labels by id.
        strategies: strategies to choose the next case.
        trainers: names of the models that can be trained.
    """

    name: str
    models: dict[str, dict[int, str]]
    strategies: tuple[str, ...]
    trainers: tuple[str, ...]

    def labels(self, model: str) -> list[Label]:
        """Return a model's labels, with colours."""
        return unique(
            make_label(number, title) for number, title in sorted(self.models.get(model, {}).items()) if number
        )


@dataclass(frozen=True)
class Case:
    """An image of the server's datastore.

    Attributes:
        id: id of the image in the datastore.
        path: path of the fetched file.
        reason: the server's reason for the choice, and its note on other annotators of the case; empty if it sends
            none.
    """

    id: str
    path: Path
    reason: str = ""


@dataclass(frozen=True)
class Answer:
    """Labels from a model, with the server's notes.

    Attributes:
        path: path of the label map.
        quality: rating and reasons, see ``Result.quality``; empty if the server sends none.
        notes: the server's notes, on stored corrections and on others who work on the image.
    """

    path: Path
    quality: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Access:
    """Identity of a client, with a token or with user and password.

    Attributes:
        token: bearer token, if the server asks for one.
        user, password: login of an account, if the server asks for one.
        client_id: name of the annotator on a server without accounts.
    """

    token: str = field(default="", repr=False)
    user: str = ""
    password: str = field(default="", repr=False)
    client_id: str = "medvit"


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A label to submit.

    Attributes:
        label: NIfTI or NRRD file on the image's grid.
        tag: "final" for a label that an annotator has approved.
        names: value of each label by name; the server matches the model's labels by these names.
        model: model whose label table they follow; empty if unknown.
    """

    label: Path
    tag: str = "final"
    names: Mapping[str, int] = field(default_factory=dict)
    model: str = ""


class Client:
    """Client of one server.

    Args:
        address: address of the server, for example "http://127.0.0.1:8000".
        token: bearer token, if the server asks for one.
        access: identity of the client, in place of ``token``.

    Raises:
        ServerError: the address is not an http address.
    """

    def __init__(self, address: str, token: str = "", access: Access | None = None) -> None:
        parts = urlsplit(address.strip())
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ServerError(
                f"the address {address!r}", "a server address is needed, such as http://127.0.0.1:8000", "Correct it."
            )
        self.address, self.access = address.strip().rstrip("/"), access or Access(token=token)
        self._token = self.access.token

    def log_in(self, progress: Progress | None = None) -> None:
        """Exchange the user's name and password for a token, which later requests send.

        Raises:
            ServerError: there is no such account, or the server has no login.
        """
        form = urlencode({"grant_type": "password", "username": self.access.user, "password": self.access.password})
        self._token = ""
        content, _ = self._ask(
            "POST", "/auth/token", form.encode(), "application/x-www-form-urlencoded", progress or Progress()
        )
        try:
            self._token = str(json.loads(content)["access_token"])
        except (ValueError, KeyError, TypeError) as error:
            raise ServerError(
                f"an answer of {self.address} to /auth/token without a token",
                "a MONAI Label server is needed",
                "Check the address.",
            ) from error

    def info(self) -> ServerInfo:
        """Return the server's models, strategies and trainers."""
        found = self._json("GET", "/info/")
        try:
            models = {name: _numbered(model.get("labels")) for name, model in found.get("models", {}).items()}
            strategies, trainers = tuple(found.get("strategies", {})), tuple(found.get("trainers", {}))
        except (AttributeError, TypeError) as error:
            said = f"an answer of {self.address} that is not MONAI Label's"
            raise ServerError(said, remedy="Check the address.") from error
        return ServerInfo(str(found.get("name", "")), models, strategies, trainers)

    def next_case(self, strategy: str, folder: Path, progress: Progress | None = None) -> Case:
        """Choose the next case by a strategy and fetch its image into a folder.

        Raises:
            ServerError: every image is labelled, or the server gives no valid answer.
        """
        found = self._json("POST", f"/activelearning/{quote(strategy)}", json.dumps(self._who).encode())
        image = str(found.get("id") or "")
        if not image:
            said = f"no next case by {strategy!r}: every image has its label"
            raise ServerError(said, remedy="Choose another strategy.")
        content, kind = self._send("GET", f"/datastore/image?{urlencode({'image': image})}", progress=progress)
        return Case(image, _kept(folder, content, kind), str(found.get("reason") or ""))

    def infer(self, model: str, image: str, folder: Path, progress: Progress | None = None) -> Path:
        """Return a model's labels for an image of the datastore, as a file in a folder; see ``ask_model``."""
        return self.ask_model(model, image, folder, progress).path

    def ask_model(self, model: str, image: str, folder: Path, progress: Progress | None = None) -> Answer:
        """Run a model of the server on an image of the datastore; return its labels as a file in a folder, with the
        server's notes.

        Raises:
            ServerError: the server refuses, or is not reachable.
        """
        wanted = {"result_extension": ".nii.gz", "result_dtype": "uint16", **self._who}
        body, kind = _form({"params": json.dumps(wanted)}, {})
        path = f"/infer/{quote(model)}?{urlencode({'image': image, 'output': 'all'})}"
        content, kind = self._send("POST", path, body, kind, progress)
        said, content, kind = _both(content, kind)
        quality, notes = said.get("quality"), said.get("notes")
        return Answer(
            _kept(folder, content, kind),
            quality if isinstance(quality, dict) else {},
            tuple(str(note) for note in notes) if isinstance(notes, list) else (),
        )

    @property
    def _who(self) -> dict[str, str]:
        return {"client_id": self.access.user or self.access.client_id}

    def save_label(
        self, image: str, label: Path, tag: str = "final", names: Mapping[str, int] | None = None
    ) -> tuple[str, ...]:
        """Submit a label file for an image; see ``submit``."""
        return self.submit(image, Submission(label=label, tag=tag, names=names or {}))

    def submit(self, image: str, sent: Submission, progress: Progress | None = None) -> tuple[str, ...]:
        """Submit a label for an image; return the server's notes.

        Args:
            image: id of the image in the datastore.
            sent: the label.
            progress: can cancel the request.

        Raises:
            ServerError: the server refuses, does not know the image, or is not reachable.
        """
        listed = [{"name": name, "idx": value} for name, value in sent.names.items()]
        params = {"label_info": listed, **self._who} | ({"model": sent.model} if sent.model else {})
        body, kind = _form({"params": json.dumps(params)}, {"label": sent.label})
        path = f"/datastore/label?{urlencode({'image': image, 'tag': sent.tag})}"
        content, _ = self._send("PUT", path, body, kind, progress)
        try:
            noted = json.loads(content or b"{}").get("notes", ())
        except (ValueError, AttributeError):
            return ()
        return tuple(str(note) for note in noted) if isinstance(noted, list) else ()

    def train(self, model: str) -> None:
        """Start training a model; the server refuses a second training."""
        self._json("POST", f"/train/{quote(model)}", b"{}")

    def training(self) -> str:
        """Describe the state of the training and, if the server sends them, its steps, its scores and the new version."""
        return _told(self._json("GET", "/train/?check_if_running=false"))

    def stop_training(self) -> bool:
        """Stop the training; return False if the server answers that none was running."""
        return self._send("DELETE", "/train/")[0].strip() != b"null"

    def _json(self, method: str, path: str, body: bytes | None = None) -> dict[str, Any]:
        content, _ = self._send(method, path, body, "application/json")
        try:
            found = json.loads(content or b"{}")
        except ValueError as error:
            raise ServerError(
                f"an answer of {self.address} to {path.partition('?')[0]} that is not JSON",
                "a MONAI Label server is needed",
                "Check the address.",
            ) from error
        return found if isinstance(found, dict) else {"items": found}

    def _send(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        kind: str = "",
        progress: Progress | None = None,
    ) -> tuple[bytes, str]:
        """Return an answer's content and file name; log in if the server asks for it. The request can be cancelled at
        any time.
        """
        progress = progress or Progress()
        try:
            return self._ask(method, path, body, kind, progress)
        except _LoginError:
            if not self.access.user:
                raise
        self.log_in(progress)  # at the first request, and after a token has expired
        return self._ask(method, path, body, kind, progress)

    def _ask(self, method: str, path: str, body: bytes | None, kind: str, progress: Progress) -> tuple[bytes, str]:
        headers = {"Content-Type": kind} if body is not None else {}
        headers |= {"Authorization": f"Bearer {self._token}"} if self._token else {}
        progress.report("waiting", 0, 1)
        try:
            answer = exchange(Request(self.address + path, body, headers, method=method), _PATIENCE_S, progress)
        except HTTPError as error:
            said = f"that {self.address} refused {path.partition('?')[0]} ({error.code}: {_detail(error)})"
            if error.code == _NO_LOGIN:
                raise _LoginError(
                    said, remedy="Type the user and the password of your account, or the token."
                ) from error
            # below 500, the server's message answers the request and holds its own remedy
            raise ServerError(said, remedy="Look at the server's own log." * (error.code >= _ITS_FAULT)) from error
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", None) or str(error) or type(error).__name__
            said = f"no answer of {self.address} ({reason})"
            raise ServerError(said, remedy="Check that the server runs and its address.") from error
        return answer.content, answer.name


class _LoginError(ServerError):
    """Error for a server that asks for a login, or refuses the given one."""


def _told(found: dict[str, Any]) -> str:
    words = [str(found.get("status") or "unknown")]
    numbers = {
        key: found[key] for key in ("done", "total", "before", "after") if isinstance(found.get(key), int | float)
    }
    if numbers.keys() >= {"done", "total"} and numbers["total"]:
        words.append(f"step {numbers['done']:.0f} of {numbers['total']:.0f}")
    if numbers.keys() >= {"before", "after"}:
        words.append(f"{found.get('metric') or 'score'} {numbers['before']:.3f} -> {numbers['after']:.3f}")
    if found.get("published"):
        words.append(f"published as version {found['published']}")
    elif found.get("reason"):
        words.append(str(found["reason"]))
    return ", ".join(words)


def _detail(error: HTTPError) -> str:
    text = error.read(2000).decode("utf-8", "replace")
    try:
        return str(json.loads(text).get("detail", text))[:200]
    except (ValueError, AttributeError):
        return text.strip()[:200]


def _both(content: bytes, name: str) -> tuple[dict[str, Any], bytes, str]:
    """Split MONAI Label's multipart answer into JSON, file content and file name; for a bare file, the JSON is empty."""
    if not content.startswith(b"--"):
        return {}, content, name
    said: dict[str, Any] = {}
    file, mark = b"", content.partition(b"\r\n")[0]
    for part in content.split(mark)[1:]:
        head, _, body = part.partition(b"\r\n\r\n")
        if (named := re.search(rb'filename="([^"]*)"', head)) is not None:
            file, name = body.removesuffix(b"\r\n"), named[1].decode("utf-8", "replace")
        elif b'name="params"' in head:
            with contextlib.suppress(ValueError):
                found = json.loads(body)
                said = found if isinstance(found, dict) else {}
    return said, file, name


def _kept(folder: Path, content: bytes, name: str) -> Path:
    """Write content to a file with a neutral name, since the server's file name could name a patient or lead to another
    folder.
    """
    ending = next((e for e in (".nii.gz", ".nii", ".nrrd", ".mha", ".zip", ".dcm") if name.lower().endswith(e)), "")
    if not ending:
        ending = (
            ".nii.gz"
            if content[:2] == b"\x1f\x8b"
            else ".nrrd"
            if content[:4] == b"NRRD"
            else ".zip"
            if content[:2] == b"PK"
            else ".nii"
        )
    with tempfile.NamedTemporaryFile(dir=folder, prefix="case-", suffix=ending, delete=False) as file:
        file.write(content)
    return Path(file.name)


def _form(fields: dict[str, str], files: dict[str, Path]) -> tuple[bytes, str]:
    """Encode a multipart form (RFC 7578); return the body and its content type."""
    mark = uuid.uuid4().hex
    parts = [
        f'--{mark}\r\nContent-Disposition: form-data; name="{n}"\r\n\r\n{v}\r\n'.encode() for n, v in fields.items()
    ]
    for name, path in files.items():
        suffix = "".join(path.suffixes[-2:])
        head = f'--{mark}\r\nContent-Disposition: form-data; name="{name}"; filename="label{suffix}"\r\nContent-Type: application/octet-stream\r\n\r\n'
        parts.append(head.encode() + path.read_bytes() + b"\r\n")
    return b"".join([*parts, f"--{mark}--\r\n".encode()]), f"multipart/form-data; boundary={mark}"


def _numbered(labels: Any) -> dict[int, str]:
    """Return a model's labels by id; servers send a list of names, or names with numbers."""
    if isinstance(labels, dict):
        return {
            int(v): str(k)
            for k, v in labels.items()
            if isinstance(v, int | float | str) and str(v).lstrip("-").isdigit()
        }
    return {number: str(name) for number, name in enumerate(labels or [], 1)}
