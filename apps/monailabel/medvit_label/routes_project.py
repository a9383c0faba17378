"""Endpoints of the project: info, images, labels, sessions, the next case. Paths and answers are MONAI Label 0.8's."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, File, Form, HTTPException, Request, UploadFile
from fastapi.responses import FileResponse, JSONResponse

from medvit_label.errors import RequestError
from medvit_label.images import Image, stem_of
from medvit_label.inference import json_object
from medvit_label.nifti import as_nifti
from medvit_label.scoring import note_scores
from medvit_label.service import Service
from medvit_label.settings import is_loopback
from medvit_label.strategies import choose
from medvit_label.uploads import IMAGES, LABELS, received, require_image

__all__ = ["router", "the_service"]

router = APIRouter()


def the_service(request: Request) -> Service:
    """The service behind the application."""
    service: Service = request.app.state.service
    return service


Held = Annotated[Service, Depends(the_service)]
Params = Annotated[str, Form()]


@router.get("/info/")
def info(service: Held) -> dict[str, Any]:
    """Models, strategies, trainers and how far the project is."""
    return service.info()


@router.get("/auth/")
def auth(service: Held) -> dict[str, Any]:
    """Whether a token is needed."""
    return {"enabled": bool(service.settings.token), "client_id": "medvit", "realm": ""}


@router.post("/auth/token")
def token(
    service: Held, username: Annotated[str, Form()] = "", password: Annotated[str, Form()] = ""
) -> dict[str, Any]:
    """What MONAI Label's login dialogs ask: any user name, and the token as the password."""
    if not service.settings.token or not hmac.compare_digest(password.encode(), service.settings.token.encode()):
        raise HTTPException(401, "Found a wrong password; it is the token the server was started with.")
    return {"access_token": password, "token_type": "bearer"}


@router.get("/auth/token/valid")
def valid(service: Held) -> dict[str, Any]:
    """Answers only to a valid token."""
    return {"username": "annotator", "roles": []}


@router.get("/datastore/")
def datastore(service: Held, output: str = "stats") -> Any:
    """The project's state; ``output=all`` lists every image and label, ``output=train`` the labelled images."""
    if output == "all":
        return service.objects()
    if output == "train":
        return [{"image": name, "label": name} for name in sorted(service.labels.labelled())]
    return service.status()


def _local_file(service: Service, image: Image) -> Path:
    """The image as one file: as it is, or a DICOM series as NIfTI, made once."""
    return image.path if image.series is None else as_nifti(image, service.settings.state / "nifti")


@router.api_route("/datastore/image", methods=["GET", "HEAD"])
def download_image(service: Held, request: Request, image: str, check_sum: str | None = None) -> Any:
    """An image, a DICOM series as NIfTI; HEAD says whether it is there (and, with a checksum, the same)."""
    file = _local_file(service, service.images.find(image))
    if check_sum and request.method == "HEAD":
        kind, _, digest = check_sum.rpartition(":")
        if kind.upper() not in ("", "SHA256") or hashlib.sha256(file.read_bytes()).hexdigest() != digest.lower():
            raise HTTPException(404, "Found another checksum; the image changed. Fetch it again.")
    return JSONResponse({}) if request.method == "HEAD" else FileResponse(file, filename=file.name)


@router.get("/datastore/image/info")
def image_info(service: Held, image: str) -> dict[str, Any]:
    """What is known of an image."""
    return _described(service, service.images.find(image))


@router.put("/datastore/image/info")
def note_image(service: Held, image: str, info: Params = "{}") -> dict[str, Any]:
    """Add to what is known of an image."""
    service.journal.note(service.images.find(image).id, json_object(info))
    return {}


def _described(service: Service, image: Image) -> dict[str, Any]:
    known = service.journal.info(image.id)
    if image.series is not None:
        known |= {"SeriesInstanceUID": image.series, "StudyInstanceUID": image.study, "Modality": image.modality}
    elif is_loopback(service.settings.host):
        known["path"] = str(image.path)  # a viewer on the same machine opens the file itself
    return known


@router.put("/datastore/")
@router.put("/datastore/image")
def add_image(
    service: Held, file: Annotated[UploadFile, File()], image: str = "", params: Params = "{}"
) -> dict[str, Any]:
    """Add an image to the project; nothing is overwritten."""
    content = json_object(params)
    with received(file.filename, file.file, IMAGES, service.scratch) as path:
        require_image(path)
        name = image if image not in ("", "None") else stem_of(Path(file.filename or "").name)
        identity = service.images.add(name, path)
    service.journal.note(identity, content)
    return {"image": identity}


@router.delete("/datastore/")
@router.delete("/datastore/image")
def remove_image(service: Held, id: str) -> None:
    """Originals are never touched from here."""
    raise HTTPException(
        403,
        "Found a request to delete an image; the server never touches originals. Take the file out of the folder yourself.",
    )


@router.put("/datastore/label")
def save_label(
    service: Held, image: str, label: Annotated[UploadFile, File()], tag: str = "final", params: Params = "{}"
) -> dict[str, Any]:
    """Keep a label as the next version; for DICOM its SEG goes to the archive the image came from."""
    content = json_object(params)
    found = service.images.find(image)
    named = content.get("model")
    bundle = service.table_for(found, named if isinstance(named, str) else None)
    table = bundle.facts.labels if bundle else ()
    about = {"model": bundle.name if bundle else None, "bundle": f"{bundle.name} {bundle.version}" if bundle else None}
    with received(label.filename, label.file, LABELS, service.scratch) as path:
        stored = service.labels.save(found, path, tag or "final", table, content | about)
    note_scores(service, found, stored, bundle)
    return {"image": image, "label": image, "tag": stored.tag, "version": stored.version, "notes": stored.info["notes"]}


@router.api_route("/datastore/label", methods=["GET", "HEAD"])
def download_label(service: Held, request: Request, tag: str = "final", label: str = "", image: str = "") -> Any:
    """The newest version of a label."""
    found = service.labels.latest(label or image, tag)
    if request.method == "HEAD":
        return JSONResponse({})
    return FileResponse(found.file, filename=found.file.name, headers={"x-label-version": str(found.version)})


@router.delete("/datastore/label")
def remove_label(service: Held, id: str, tag: str) -> dict[str, Any]:
    """Take a label back: it is not offered any more, its files stay."""
    service.labels.take_back(id, tag)
    return {}


@router.get("/datastore/label/info")
def label_info(service: Held, label: str, tag: str) -> dict[str, Any]:
    """What is remembered of the newest version of a label."""
    found = service.labels.latest(label, tag)
    return found.info | {"version": found.version, "ts": int(found.created)}


@router.put("/datastore/label/info")
def note_label(service: Held, label: str, tag: str, info: Params = "{}") -> dict[str, Any]:
    """Add to what is remembered of a label."""
    service.labels.note(label, tag, json_object(info))
    return {}


@router.post("/activelearning/{strategy}")
def next_case(service: Held, strategy: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
    """The case to label next, and why."""
    choice = choose(service, strategy, params or {})
    if choice is None:
        return {}
    service.journal.pick(choice.image.id, strategy, str((params or {}).get("client_id", ""))[:64])
    return {
        "id": choice.image.id,
        "name": choice.image.id,
        "reason": choice.reason,
        **_described(service, choice.image),
    }


@router.put("/session/")
def create_session(
    service: Held, files: Annotated[list[UploadFile], File()], uncompress: bool = False, expiry: int = 0
) -> dict[str, Any]:
    """Begin a session with one image: a file, or a zip of a DICOM series. An archive is never unpacked to disk."""
    if len(files) != 1:
        raise RequestError(
            f"Found {len(files)} files for a session; one image is needed. Send a DICOM series as one zip."
        )
    with received(files[0].filename, files[0].file, IMAGES, service.scratch) as path:
        require_image(path)
        return service.sessions.add(path, expiry)


@router.get("/session/{session}")
def get_session(service: Held, session: str, update_ts: bool = False, image: bool = False) -> Any:
    """A session, or with ``image=true`` its image."""
    if image:
        file = service.sessions.image(session).path
        return FileResponse(file, filename=file.name)
    return service.sessions.shown(session)


@router.delete("/session/{session}")
def remove_session(service: Held, session: str) -> dict[str, Any]:
    """End a session."""
    return service.sessions.remove(session)
