"""Endpoints of labels: submit, fetch, take back, and choose the one that counts. Paths and answers are MONAI Label 0.8's."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, File, Request, UploadFile
from fastapi.responses import FileResponse, JSONResponse

from medvit_label.annotators import annotator_of, require_reviewer, shown_name
from medvit_label.images.uploads import LABELS, received
from medvit_label.inference.run import json_object
from medvit_label.labels.store import FINAL, StoredLabel
from medvit_label.project import Project
from medvit_label.routes.project import CurrentProject, Params

__all__ = ["router"]

router = APIRouter()
_REVIEWER = [Depends(require_reviewer)]


@router.put("/datastore/label")
def save_label(
    request: Request, service: CurrentProject, image: str, label: Annotated[UploadFile, File()], tag: str = FINAL, params: Params = "{}"
) -> dict[str, Any]:  # fmt: skip
    """Keep a label as the next version; for DICOM the SEG of the one that counts goes to the archive the image came from."""
    content = json_object(params)
    who, found = annotator_of(request, content), service.images.find(image)
    with received(label.filename, label.file, LABELS, service.scratch) as path:
        stored, others = service.save_label(found, path, tag or FINAL, content, who)
    return {"image": image, "label": image, **_shown(service, stored), "notes": [*stored.info["notes"], *others]}


def _shown(service: Project, label: StoredLabel) -> dict[str, Any]:
    standing = service.labels.standing(label.image, label.tag)
    return {
        "tag": label.tag,
        "version": label.version,
        "annotator": label.annotator,
        "counts": standing is not None and standing.version == label.version,
    }


@router.get("/datastore/label/versions")
def label_versions(service: CurrentProject, label: str, tag: str = FINAL) -> list[dict[str, Any]]:
    """List the versions of a label, oldest first: whose, of when, and which one counts."""
    versions = service.labels.versions(label, tag) or [service.labels.latest(label, tag)]
    return [_shown(service, version) | {"ts": int(version.created)} for version in versions]


@router.post("/datastore/label/choose", dependencies=_REVIEWER)
def choose_label(
    request: Request, service: CurrentProject, image: str, version: int, tag: str = FINAL
) -> dict[str, Any]:
    """Let a version of a final label count: for training, statistics, download and the archive."""
    stored = service.labels.choose(image, tag, version, annotator_of(request, {}))
    return {"image": image, **_shown(service, stored), "notes": [*stored.info["notes"], *service.labels.told(stored)]}


@router.api_route("/datastore/label", methods=["GET", "HEAD"])
def download_label(
    service: CurrentProject,
    request: Request,
    tag: str = FINAL,
    label: str = "",
    image: str = "",
    version: int | None = None,
) -> Any:
    """Return the label that counts, or a version of it."""
    found = service.labels.latest(label or image, tag, version)
    if request.method == "HEAD":
        return JSONResponse({})
    return FileResponse(found.file, filename=found.file.name, headers={"x-label-version": str(found.version)})


@router.delete("/datastore/label", dependencies=_REVIEWER)
def remove_label(service: CurrentProject, id: str, tag: str, version: int | None = None) -> dict[str, Any]:
    """Take a label back, or a version of it: it is not offered any more, its files stay. Say which one counts then."""
    now = service.labels.take_back(id, tag, version)
    if now is None:
        return {"counts": None, "notes": [f"No {tag} label of this image is left; their files are kept."]}
    words = f"Version {now.version} by {shown_name(now.annotator)} counts from now on."
    return {"counts": now.version, "notes": [words]}


@router.get("/datastore/label/info")
def label_info(service: CurrentProject, label: str, tag: str) -> dict[str, Any]:
    """Return the stored information on the label that counts."""
    found = service.labels.latest(label, tag)
    notes = [*found.info.get("notes", []), *service.labels.told(found)]
    return found.info | {"version": found.version, "ts": int(found.created), "notes": notes}


@router.put("/datastore/label/info")
def note_label(service: CurrentProject, label: str, tag: str, info: Params = "{}") -> dict[str, Any]:
    """Add to what is remembered of a label."""
    words = service.labels.note_of_client(service.labels.latest(label, tag), json_object(info))
    return {"notes": words} if words else {}
