"""A client of MONAI Label's documented HTTP interface: models, next case, inference, labels, training. No Qt in here.

The endpoints are those of MONAI Label 0.8: ``/auth/token``, ``/info/``, ``/activelearning/{strategy}``, ``/infer/{model}``,
``/datastore/image``, ``/datastore/label``, ``/train/{model}``.
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
"""An inference on a CPU takes minutes; a server that is away says so at once."""


@dataclass(frozen=True)
class ServerInfo:
    """What a server offers.

    Attributes:
        name: of the app.
        models: names, with the titles of their labels by id.
        strategies: how the next case may be chosen.
        trainers: names of models that can be trained.
    """

    name: str
    models: dict[str, dict[int, str]]
    strategies: tuple[str, ...]
    trainers: tuple[str, ...]

    def labels(self, model: str) -> list[Label]:
        """A model's labels, with colours."""
        return unique(
            make_label(number, title) for number, title in sorted(self.models.get(model, {}).items()) if number
        )


@dataclass(frozen=True)
class Case:
    """An image of the server's datastore.

    Attributes:
        id: its id there.
        path: where it lies here.
        reason: the server's words on why it is next, and on who else works on it; empty where it says nothing.
    """

    id: str
    path: Path
    reason: str = ""


@dataclass(frozen=True)
class Answer:
    """A model's labels, and what the server says of them.

    Attributes:
        path: the label map.
        quality: rating and reasons, as ``Result.quality`` gives them; empty where the server tells none.
        notes: its notes: corrections that are kept, others who work on the image.
    """

    path: Path
    quality: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Access:
    """Identity of a client, and its proof: a token, or user and password.

    Attributes:
        token: of a server that asks for one; sent as a bearer.
        user, password: of an account, where the server asks for a login.
        client_id: names the annotator where the server has no accounts.
    """

    token: str = field(default="", repr=False)
    user: str = ""
    password: str = field(default="", repr=False)
    client_id: str = "medvit"


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A label to submit.

    Attributes:
        label: a NIfTI or NRRD file on the image's grid.
        tag: "final" for one a person stands behind.
        names: name and value of each label; the names decide which label of the model a value is.
        model: whose label table they follow; empty where that is not known.
    """

    label: Path
    tag: str = "final"
    names: Mapping[str, int] = field(default_factory=dict)
    model: str = ""


class Client:
    """Talks to one server.

    Args:
        address: for example "http://127.0.0.1:8000".
        token: of a server that asks for one; sent as a bearer.
        access: who asks, in place of ``token``.

    Raises:
        ServerError: no http address.
    """

    def __init__(self, address: str, token: str = "", access: Access | None = None) -> None:
        parts = urlsplit(address.strip())
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ServerError(
                f"Found the address {address!r}; a server's is needed, such as http://127.0.0.1:8000. Correct it."
            )
        self.address, self.access = address.strip().rstrip("/"), access or Access(token=token)
        self._token = self.access.token

    def log_in(self, progress: Progress | None = None) -> None:
        """Exchange the user's name and password for a token, which every later request shows.

        Raises:
            ServerError: no such account, or the server has no login.
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
                f"Found an answer of {self.address} to /auth/token without a token; a MONAI Label server is needed. Check the address."
            ) from error

    def info(self) -> ServerInfo:
        """What the server offers."""
        found = self._json("GET", "/info/")
        try:
            models = {name: _numbered(model.get("labels")) for name, model in found.get("models", {}).items()}
            strategies, trainers = tuple(found.get("strategies", {})), tuple(found.get("trainers", {}))
        except (AttributeError, TypeError) as error:
            raise ServerError(
                f"Found an answer of {self.address} that is none of MONAI Label's. Check the address."
            ) from error
        return ServerInfo(str(found.get("name", "")), models, strategies, trainers)

    def next_case(self, strategy: str, folder: Path, progress: Progress | None = None) -> Case:
        """The case that a strategy chooses, its image fetched into a folder.

        Raises:
            ServerError: every image is labelled, or the server cannot tell.
        """
        found = self._json("POST", f"/activelearning/{quote(strategy)}", json.dumps(self._who).encode())
        image = str(found.get("id") or "")
        if not image:
            raise ServerError(
                f"Found no next case by {strategy!r}: every image has its label. Choose another strategy."
            )
        content, kind = self._send("GET", f"/datastore/image?{urlencode({'image': image})}", progress=progress)
        return Case(image, _kept(folder, content, kind), str(found.get("reason") or ""))

    def infer(self, model: str, image: str, folder: Path, progress: Progress | None = None) -> Path:
        """Return a model's labels for an image of the datastore, as a file in a folder; see ``ask_model``."""
        return self.ask_model(model, image, folder, progress).path

    def ask_model(self, model: str, image: str, folder: Path, progress: Progress | None = None) -> Answer:
        """Have a model label an image of the datastore.

        Raises:
            ServerError: the server refuses, or is away.
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
        """Submit a label for an image; return what the server notes about it.

        Args:
            image: its id in the datastore.
            sent: the label.
            progress: can cancel it.

        Raises:
            ServerError: the server refuses, knows no such image, or is away.
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
        """Start training; the server refuses a second one."""
        self._json("POST", f"/train/{quote(model)}", b"{}")

    def training(self) -> str:
        """How far training is, in words: its state and, where the server tells (ours does), steps, scores and the version made."""
        return _told(self._json("GET", "/train/?check_if_running=false"))

    def stop_training(self) -> None:
        """Stop it."""
        self._send("DELETE", "/train/")

    def _json(self, method: str, path: str, body: bytes | None = None) -> dict[str, Any]:
        content, _ = self._send(method, path, body, "application/json")
        try:
            found = json.loads(content or b"{}")
        except ValueError as error:
            raise ServerError(
                f"Found an answer of {self.address} to {path.partition('?')[0]} that is not JSON; a MONAI Label server is needed. Check the address."
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
        """Return an answer's content and its file's name; log in where the server asks for it. Can be cancelled at any moment."""
        progress = progress or Progress()
        try:
            return self._ask(method, path, body, kind, progress)
        except _LoginError:
            if not self.access.user:
                raise
        self.log_in(progress)  # the first time, and when a token has expired
        return self._ask(method, path, body, kind, progress)

    def _ask(self, method: str, path: str, body: bytes | None, kind: str, progress: Progress) -> tuple[bytes, str]:
        headers = {"Content-Type": kind} if body is not None else {}
        headers |= {"Authorization": f"Bearer {self._token}"} if self._token else {}
        progress.report("waiting", 0, 1)
        try:
            answer = exchange(Request(self.address + path, body, headers, method=method), _PATIENCE_S, progress)
        except HTTPError as error:
            said = f"Found that {self.address} refused {path.partition('?')[0]} ({error.code}: {_detail(error)})."
            if error.code == _NO_LOGIN:
                raise _LoginError(f"{said} Type the user and the password of your account, or the token.") from error
            # below 500 the words are the server's answer to what was asked, with a step of their own
            raise ServerError(said if error.code < _ITS_FAULT else f"{said} Look at the server's own log.") from error
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", None) or str(error) or type(error).__name__
            raise ServerError(
                f"Found no answer of {self.address} ({reason}). Check that the server runs and its address."
            ) from error
        return answer.content, answer.name


class _LoginError(ServerError):
    """The server asks for a login, or refuses the one it was given."""


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
    """Part an answer of both, MONAI Label's multipart form, into what is said, the file's content and name; a bare file says nothing."""
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
    """Content as a file with a name of our own: the server's could hold a patient's, or lead elsewhere."""
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
    """A multipart form (RFC 7578)."""
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
    """A model's labels, which servers give as a list of names or as names with numbers."""
    if isinstance(labels, dict):
        return {
            int(v): str(k)
            for k, v in labels.items()
            if isinstance(v, int | float | str) and str(v).lstrip("-").isdigit()
        }
    return {number: str(name) for number, name in enumerate(labels or [], 1)}
