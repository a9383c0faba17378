"""Endpoints of labels: submit, download, remove, and choose the one that counts. Paths and answers are MONAI Label 0.8's."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, File, Request, UploadFile
from fastapi.responses import FileResponse, JSONResponse

from medvit_label.annotators import annotator_of, display_name, require_reviewer
from medvit_label.images.uploads import LABELS, save_upload
from medvit_label.labels.store import FINAL, StoredLabel
from medvit_label.labels.submission import Submission, submit_label
from medvit_label.project import Project
from medvit_label.request_params import json_object
from medvit_label.routes.project import CurrentProject, Params

__all__ = ["router"]

router = APIRouter()
_REVIEWER = [Depends(require_reviewer)]


@router.put("/datastore/label")
def save_label(
    request: Request, project: CurrentProject, image: str, label: Annotated[UploadFile, File()], tag: str = FINAL, params: Params = "{}"
) -> dict[str, Any]:  # fmt: skip
    """Store a label as the next version; for DICOM, the SEG of the label that counts goes to the archive of its image."""
    content = json_object(params)
    who, found = annotator_of(request, content), project.images.find(image)
    with save_upload(label.filename, label.file, LABELS, project.scratch) as path:
        given = Submission(image=found, file=path, tag=tag or FINAL, content=content, annotator=who)
        stored, notes = submit_label(
            given,
            labels=project.labels,
            models=project.models,
            predictions=project.predictions,
            activity=project.activity,
        )
    return {"image": image, "label": image, **_shown(project, stored), "notes": [*stored.info["notes"], *notes]}


def _shown(project: Project, label: StoredLabel) -> dict[str, Any]:
    standing = project.labels.standing(label.image, label.tag)
    return {
        "tag": label.tag,
        "version": label.version,
        "annotator": label.annotator,
        "counts": standing is not None and standing.version == label.version,
    }


@router.get("/datastore/label/versions")
def label_versions(project: CurrentProject, label: str, tag: str = FINAL) -> list[dict[str, Any]]:
    """List the versions of a label, oldest first, with annotator and time, and which one counts."""
    versions = project.labels.versions(label, tag) or [project.labels.latest(label, tag)]
    return [_shown(project, version) | {"ts": int(version.created)} for version in versions]


@router.post("/datastore/label/choose", dependencies=_REVIEWER)
def choose_label(
    request: Request, project: CurrentProject, image: str, version: int, tag: str = FINAL
) -> dict[str, Any]:
    """Choose the version of a final label that counts for training, statistics, download and the archive."""
    stored = project.labels.choose(image, tag, version, annotator_of(request, {}))
    return {
        "image": image,
        **_shown(project, stored),
        "notes": [*stored.info["notes"], *project.labels.annotators_note(stored)],
    }


@router.api_route("/datastore/label", methods=["GET", "HEAD"])
def download_label(
    project: CurrentProject,
    request: Request,
    tag: str = FINAL,
    label: str = "",
    image: str = "",
    version: int | None = None,
) -> Any:
    """Return the file of the label that counts, or of a version."""
    found = project.labels.latest(label or image, tag, version)
    if request.method == "HEAD":
        return JSONResponse({})
    return FileResponse(found.file, filename=found.file.name, headers={"x-label-version": str(found.version)})


@router.delete("/datastore/label", dependencies=_REVIEWER)
def remove_label(project: CurrentProject, id: str, tag: str, version: int | None = None) -> dict[str, Any]:
    """Hide a label, or one version, and keep its files. Return the version that counts from then on."""
    now = project.labels.hide(id, tag, version)
    if now is None:
        return {"counts": None, "notes": [f"No {tag} label of this image is left; their files are kept."]}
    words = f"Version {now.version} by {display_name(now.annotator)} counts from now on."
    return {"counts": now.version, "notes": [words]}


@router.get("/datastore/label/info")
def label_info(project: CurrentProject, label: str, tag: str) -> dict[str, Any]:
    """Return the stored information on the label that counts."""
    found = project.labels.latest(label, tag)
    notes = [*found.info.get("notes", []), *project.labels.annotators_note(found)]
    return found.info | {"version": found.version, "ts": int(found.created), "notes": notes}


@router.put("/datastore/label/info")
def note_label(project: CurrentProject, label: str, tag: str, info: Params = "{}") -> dict[str, Any]:
    """Add to the stored information on a label."""
    words = project.labels.note_from_client(project.labels.latest(label, tag), json_object(info))
    return {"notes": words} if words else {}
