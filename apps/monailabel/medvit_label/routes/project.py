"""Endpoints of the project: info, images, sessions, the next case. Paths and answers are those of MONAI Label 0.8."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, File, Form, HTTPException, Request, UploadFile
from fastapi.responses import FileResponse, JSONResponse

from medvit_label.annotators import annotator_of
from medvit_label.errors import RequestError
from medvit_label.images.nifti_copy import as_nifti
from medvit_label.images.source import LabelImage, stem_of
from medvit_label.images.uploads import IMAGES, require_image, save_upload
from medvit_label.labels.next_case import choose
from medvit_label.project import Project
from medvit_label.request_params import json_object
from medvit_label.routes.project_state import project_info, project_objects, project_status
from medvit_label.settings import is_loopback

__all__ = ["CurrentProject", "Params", "current_project", "router"]

router = APIRouter()


def current_project(request: Request) -> Project:
    """Return the project that the application serves."""
    project: Project = request.app.state.project
    return project


CurrentProject = Annotated[Project, Depends(current_project)]
Params = Annotated[str, Form()]


@router.get("/info/")
def info(project: CurrentProject) -> dict[str, Any]:
    """Return models, trainers, strategies and the progress of the project."""
    return project_info(project)


@router.get("/datastore/")
def datastore(project: CurrentProject, output: str = "stats") -> Any:
    """Return the project's progress; ``output=all`` lists each image and label, ``output=train`` the labelled images."""
    if output == "all":
        return project_objects(project)
    if output == "train":
        return [{"image": name, "label": name} for name in sorted(project.labels.labelled())]
    return project_status(project)


def _local_file(project: Project, image: LabelImage) -> Path:
    """Return the image as one file: the file itself, or a DICOM series converted to NIfTI once."""
    return image.path if image.series is None else as_nifti(image, project.settings.state / "nifti")


@router.api_route("/datastore/image", methods=["GET", "HEAD"])
def download_image(project: CurrentProject, request: Request, image: str, check_sum: str | None = None) -> Any:
    """Return an image, a DICOM series as NIfTI; HEAD checks that it exists and, given a checksum, that it is unchanged."""
    file = _local_file(project, project.images.find(image))
    if check_sum and request.method == "HEAD":
        kind, _, digest = check_sum.rpartition(":")
        if kind.upper() not in ("", "SHA256") or hashlib.sha256(file.read_bytes()).hexdigest() != digest.lower():
            raise HTTPException(404, "Found another checksum; the image changed. Fetch it again.")
    return JSONResponse({}) if request.method == "HEAD" else FileResponse(file, filename=file.name)


@router.get("/datastore/image/info")
def image_info(project: CurrentProject, image: str) -> dict[str, Any]:
    """Return the facts and clients' notes on an image."""
    return _described(project, project.images.find(image))


@router.put("/datastore/image/info")
def note_image(project: CurrentProject, image: str, info: Params = "{}") -> dict[str, Any]:
    """Add notes of a client to an image."""
    project.images.note(project.images.find(image).id, json_object(info))
    return {}


def _described(project: Project, image: LabelImage) -> dict[str, Any]:
    known = project.images.info(image.id)
    if image.series is not None:
        known |= {"SeriesInstanceUID": image.series, "StudyInstanceUID": image.study, "Modality": image.modality}
    elif is_loopback(project.settings.host):
        known["path"] = str(image.path)  # a viewer on the same machine opens the file itself
    return known


@router.put("/datastore/")
@router.put("/datastore/image")
def add_image(
    project: CurrentProject, file: Annotated[UploadFile, File()], image: str = "", params: Params = "{}"
) -> dict[str, Any]:
    """Add an image to the project; an existing image is not overwritten."""
    content = json_object(params)
    with save_upload(file.filename, file.file, IMAGES, project.scratch) as path:
        require_image(path)
        name = image if image not in ("", "None") else stem_of(Path(file.filename or "").name)
        identity = project.images.add(name, path)
    project.images.note(identity, content)
    return {"image": identity}


@router.delete("/datastore/")
@router.delete("/datastore/image")
def remove_image(project: CurrentProject, id: str) -> None:
    """Refuse to delete an image, since the server never changes originals."""
    raise HTTPException(
        403,
        "Found a request to delete an image; the server never changes originals. Take the file out of the folder yourself.",
    )


@router.post("/activelearning/{strategy}")
def next_case(
    request: Request, project: CurrentProject, strategy: str, params: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return the case to label next, and the reason."""
    content = params or {}
    choice = choose(strategy, content, project.labels.unlabelled(), project.activity, project.predictions)
    if choice is None:
        return {}
    who = annotator_of(request, content)
    project.activity.assign(choice.image.id, strategy, who.name)
    others = project.activity.note(choice.image.id, who.name, "taken")
    return {
        "id": choice.image.id,
        "name": choice.image.id,
        "reason": " ".join([choice.reason, *others]),
        "others": others,
        **_described(project, choice.image),
    }


@router.put("/session/")
def create_session(
    project: CurrentProject, files: Annotated[list[UploadFile], File()], uncompress: bool = False, expiry: int = 0
) -> dict[str, Any]:
    """Start a session with one image: a file, or a zip of a DICOM series, which is never unpacked to disk."""
    if len(files) != 1:
        raise RequestError(
            f"{len(files)} files for a session", "one image is needed", "Send a DICOM series as one zip."
        )
    with save_upload(files[0].filename, files[0].file, IMAGES, project.scratch) as path:
        require_image(path)
        return project.images.sessions.add(path, expiry)


@router.get("/session/{session}")
def get_session(project: CurrentProject, session: str, update_ts: bool = False, image: bool = False) -> Any:
    """Return a session, or with ``image=true`` its image."""
    if image:
        file = project.images.sessions.image(session).path
        return FileResponse(file, filename=file.name)
    return project.images.sessions.summary(session)


@router.delete("/session/{session}")
def remove_session(project: CurrentProject, session: str) -> dict[str, Any]:
    """End a session."""
    return project.images.sessions.remove(session)
