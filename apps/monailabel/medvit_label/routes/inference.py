"""Endpoints of inference: run a model, its queue, and the model's weights."""

from __future__ import annotations

import asyncio
import json
import shutil
import uuid
from contextlib import ExitStack
from typing import Annotated, Any

from fastapi import APIRouter, BackgroundTasks, File, Form, HTTPException, Request, UploadFile
from fastapi.responses import FileResponse, Response

from medvit.progress import Cancelled
from medvit_label.annotators import account_of, annotator_of, display_name
from medvit_label.errors import AccessError, RequestError
from medvit_label.images.source import LabelImage
from medvit_label.images.uploads import IMAGES, LABELS, require_image, save_upload
from medvit_label.inference.queue import Job
from medvit_label.inference.run import InferenceFiles, Params, asks_correction, asks_restart, read_params
from medvit_label.project import Project
from medvit_label.routes.project import CurrentProject

__all__ = ["router"]

router = APIRouter()
_OUTPUTS = ("image", "json", "all", "dicom_seg")
_LOOK_S = 0.5
"""Seconds between checks that the client is still connected."""


@router.post("/infer/{model}")
async def run_inference(
    request: Request,
    project: CurrentProject,
    background: BackgroundTasks,
    model: str,
    image: str = "",
    session_id: str = "",
    output: str = "all",
    params: Annotated[str, Form()] = "{}",
    file: Annotated[UploadFile | None, File()] = None,
    label: Annotated[UploadFile | None, File()] = None,
) -> Any:
    """Run a bundle on an image of the project, of a session or of the request; cancel it when the client disconnects."""
    if output not in _OUTPUTS:
        raise RequestError(f"output {output[:20]!r}", f"it must be one of {', '.join(_OUTPUTS)}")
    settings, content = read_params(params)
    with ExitStack() as held:
        target = await asyncio.to_thread(_target, project, held, image, session_id, file)
        who = annotator_of(request, content)
        if label is not None or asks_correction(content, project.models.find(model)):
            drawn = (
                held.enter_context(save_upload(label.filename, label.file, LABELS, project.scratch)) if label else None
            )
            job = await asyncio.to_thread(project.runs.inferences.submit_correction, model, target, content, drawn, who)
        else:
            seg, restart = output == "dicom_seg", asks_restart(content)
            job = await asyncio.to_thread(project.runs.inferences.submit, model, target, settings, seg, who, restart)
        made = await _finished(request, job)
    background.add_task(shutil.rmtree, made.folder, ignore_errors=True)
    return await asyncio.to_thread(_answer, made, output, settings, job)


def _target(project: Project, held: ExitStack, image: str, session: str, file: UploadFile | None) -> LabelImage:
    if file is None:
        return project.images.named(image, session)
    path = held.enter_context(save_upload(file.filename, file.file, IMAGES, project.scratch))
    require_image(path)
    return LabelImage(id=f"upload {uuid.uuid4().hex}", path=path)


async def _finished(request: Request, job: Job[InferenceFiles]) -> InferenceFiles:
    """Return the job's files; cancel the job when the client disconnects."""
    waiting = asyncio.wrap_future(job.future)
    while True:
        try:
            return await asyncio.wait_for(asyncio.shield(waiting), _LOOK_S)
        except TimeoutError:
            if await request.is_disconnected():
                job.progress.cancel()
        except Cancelled as error:
            raise HTTPException(409, f"The inference was cancelled: {error}") from None


def _answer(made: InferenceFiles, output: str, params: Params, job: Job[InferenceFiles]) -> Response:
    known = made.params | {"job": job.id}
    if output == "json":
        return Response(json.dumps(known), media_type="application/json")
    if output == "image":
        return FileResponse(made.file, filename=made.file.name)
    if output == "dicom_seg":
        seg = made.folder / "seg.dcm"
        if not seg.is_file():
            reasons = (
                "; ".join(known.get("set_aside", [])) or "the image is no DICOM series, or the bundle makes no labels"
            )
            raise HTTPException(422, f"Found that no DICOM SEG can be written: {reasons}. Ask for output=image.")
        return FileResponse(seg, media_type="application/dicom", filename="seg.dcm")
    return _multipart(known, made)


def _multipart(known: dict[str, Any], made: InferenceFiles) -> Response:
    """Return an answer with the JSON as the field ``params`` and the file as ``image``."""
    mark = f"medvit{uuid.uuid4().hex}"
    name = f"{uuid.uuid4().hex}{''.join(made.file.suffixes[-2:]) if made.file.suffix == '.gz' else made.file.suffix}"
    head = (
        f'--{mark}\r\nContent-Disposition: form-data; name="params"\r\nContent-Type: application/json\r\n\r\n{json.dumps(known)}\r\n'
        f'--{mark}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\nContent-Type: application/octet-stream\r\n\r\n'
    )
    body = head.encode() + made.file.read_bytes() + f"\r\n--{mark}--\r\n".encode()
    return Response(body, media_type=f"multipart/form-data; boundary={mark}")


@router.get("/queue/")
def queue(project: CurrentProject) -> list[dict[str, Any]]:
    """List the inferences with their progress."""
    return project.runs.inferences.queue.listing()


@router.get("/queue/{job}")
def queued(project: CurrentProject, job: str) -> dict[str, Any]:
    """Return one inference and its progress."""
    return project.runs.inferences.queue.find(job).summary()


@router.delete("/queue/{job}")
def cancel(request: Request, project: CurrentProject, job: str) -> dict[str, Any]:
    """Cancel an inference that waits or runs; with accounts an annotator can cancel only their own."""
    account, owner = account_of(request), project.runs.inferences.queue.find(job).owner
    if account is not None and not account.reviews and account.name != owner:
        raise AccessError(
            f"an inference of {display_name(owner)} to cancel",
            "an annotator may cancel only their own",
            "Ask a reviewer.",
        )
    return project.runs.inferences.queue.cancel(job).summary()


@router.get("/model/info/{model}")
def model_info(project: CurrentProject, model: str) -> dict[str, Any]:
    """Return the checksum and version of a model's weights."""
    bundle = project.models.find(model)
    return {
        "checksum": f"SHA256:{bundle.weights_sha256}",
        "modified_time": int(bundle.weights.stat().st_mtime),
        "version": bundle.version,
    }


@router.put("/model/{model}")
def refuse_model(project: CurrentProject, model: str) -> None:
    """Refuse weights sent over the network: a pickle could run code."""
    project.models.find(model)
    raise HTTPException(
        403,
        "Found weights sent to the server; it takes none, since a model file can run code. Use medvit bundles fetch.",
    )
