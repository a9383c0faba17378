"""Endpoints of the project: info, images, sessions, the next case. Paths and answers are MONAI Label 0.8's."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, File, Form, HTTPException, Request, UploadFile
from fastapi.responses import FileResponse, JSONResponse

from medvit_label.annotators import annotator_of
from medvit_label.errors import RequestError
from medvit_label.images.local import Image, stem_of
from medvit_label.images.nifti_copy import as_nifti
from medvit_label.images.uploads import IMAGES, received, require_image
from medvit_label.inference.run import json_object
from medvit_label.labels.next_case import choose
from medvit_label.project import Project
from medvit_label.settings import is_loopback

__all__ = ["current_project", "router"]

router = APIRouter()


def current_project(request: Request) -> Project:
    """The service behind the application."""
    service: Project = request.app.state.service
    return service


CurrentProject = Annotated[Project, Depends(current_project)]
Params = Annotated[str, Form()]


@router.get("/info/")
def info(service: CurrentProject) -> dict[str, Any]:
    """Models, strategies, trainers and how far the project is."""
    return service.info()


@router.get("/datastore/")
def datastore(service: CurrentProject, output: str = "stats") -> Any:
    """The project's state; ``output=all`` lists every image and label, ``output=train`` the labelled images."""
    if output == "all":
        return service.objects()
    if output == "train":
        return [{"image": name, "label": name} for name in sorted(service.labels.labelled())]
    return service.status()


def _local_file(service: Project, image: Image) -> Path:
    """The image as one file: as it is, or a DICOM series as NIfTI, made once."""
    return image.path if image.series is None else as_nifti(image, service.settings.state / "nifti")


@router.api_route("/datastore/image", methods=["GET", "HEAD"])
def download_image(service: CurrentProject, request: Request, image: str, check_sum: str | None = None) -> Any:
    """An image, a DICOM series as NIfTI; HEAD says whether it is there (and, with a checksum, the same)."""
    file = _local_file(service, service.images.find(image))
    if check_sum and request.method == "HEAD":
        kind, _, digest = check_sum.rpartition(":")
        if kind.upper() not in ("", "SHA256") or hashlib.sha256(file.read_bytes()).hexdigest() != digest.lower():
            raise HTTPException(404, "Found another checksum; the image changed. Fetch it again.")
    return JSONResponse({}) if request.method == "HEAD" else FileResponse(file, filename=file.name)


@router.get("/datastore/image/info")
def image_info(service: CurrentProject, image: str) -> dict[str, Any]:
    """What is known of an image."""
    return _described(service, service.images.find(image))


@router.put("/datastore/image/info")
def note_image(service: CurrentProject, image: str, info: Params = "{}") -> dict[str, Any]:
    """Add to what is known of an image."""
    service.journal.note(service.images.find(image).id, json_object(info))
    return {}


def _described(service: Project, image: Image) -> dict[str, Any]:
    known = service.journal.info(image.id)
    if image.series is not None:
        known |= {"SeriesInstanceUID": image.series, "StudyInstanceUID": image.study, "Modality": image.modality}
    elif is_loopback(service.settings.host):
        known["path"] = str(image.path)  # a viewer on the same machine opens the file itself
    return known


@router.put("/datastore/")
@router.put("/datastore/image")
def add_image(
    service: CurrentProject, file: Annotated[UploadFile, File()], image: str = "", params: Params = "{}"
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
def remove_image(service: CurrentProject, id: str) -> None:
    """Originals are never touched from here."""
    raise HTTPException(
        403,
        "Found a request to delete an image; the server never touches originals. Take the file out of the folder yourself.",
    )


@router.post("/activelearning/{strategy}")
def next_case(
    request: Request, service: CurrentProject, strategy: str, params: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The case to label next, and why."""
    choice, who = choose(service, strategy, params or {}), annotator_of(request, params or {})
    if choice is None:
        return {}
    service.journal.assign(choice.image.id, strategy, who.name)
    others = service.presence.note(choice.image.id, who.name, "taken")
    return {
        "id": choice.image.id,
        "name": choice.image.id,
        "reason": " ".join([choice.reason, *others]),
        "others": others,
        **_described(service, choice.image),
    }


@router.put("/session/")
def create_session(
    service: CurrentProject, files: Annotated[list[UploadFile], File()], uncompress: bool = False, expiry: int = 0
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
def get_session(service: CurrentProject, session: str, update_ts: bool = False, image: bool = False) -> Any:
    """A session, or with ``image=true`` its image."""
    if image:
        file = service.sessions.image(session).path
        return FileResponse(file, filename=file.name)
    return service.sessions.shown(session)


@router.delete("/session/{session}")
def remove_session(service: CurrentProject, session: str) -> dict[str, Any]:
    """End a session."""
    return service.sessions.remove(session)
