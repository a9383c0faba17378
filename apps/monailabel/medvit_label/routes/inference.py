"""Endpoints that make the server work: inference with its line, and what was asked of it."""

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
from medvit_label.annotators import account_of, annotator_of, shown_name
from medvit_label.errors import AccessError, RequestError
from medvit_label.images.local import Image
from medvit_label.images.uploads import IMAGES, LABELS, received, require_image
from medvit_label.inference.queue import Job
from medvit_label.inference.run import InferenceFiles, Params, asks_correction, read_params, restarts
from medvit_label.project import Project
from medvit_label.routes.project import CurrentProject

__all__ = ["router"]

router = APIRouter()
_OUTPUTS = ("image", "json", "all", "dicom_seg")
_LOOK_S = 0.5
"""Seconds between looks at whether the client still waits."""


@router.post("/infer/{model}")
async def run_inference(
    request: Request,
    service: CurrentProject,
    background: BackgroundTasks,
    model: str,
    image: str = "",
    session_id: str = "",
    output: str = "all",
    params: Annotated[str, Form()] = "{}",
    file: Annotated[UploadFile | None, File()] = None,
    label: Annotated[UploadFile | None, File()] = None,
) -> Any:
    """Run a bundle on an image of the project, of a session or sent along. The work is cancelled if the client goes away."""
    if output not in _OUTPUTS:
        raise RequestError(f"Found output {output[:20]!r}; it must be one of {', '.join(_OUTPUTS)}.")
    wanted, content = read_params(params)
    with ExitStack() as held:
        target = await asyncio.to_thread(_target, service, held, image, session_id, file)
        who = annotator_of(request, content)
        if label is not None or asks_correction(content, service.model(model)):
            drawn = held.enter_context(received(label.filename, label.file, LABELS, service.scratch)) if label else None
            job = await asyncio.to_thread(service.submit_refinement, model, target, content, drawn, who)
        else:
            seg, restart = output == "dicom_seg", restarts(content)
            job = await asyncio.to_thread(service.submit, model, target, wanted, seg, who, restart)
        made = await _finished(request, job)
    background.add_task(shutil.rmtree, made.folder, ignore_errors=True)
    return await asyncio.to_thread(_answer, made, output, wanted, job)


def _target(service: Project, held: ExitStack, image: str, session: str, file: UploadFile | None) -> Image:
    if file is None:
        return service.image_of(image, session)
    path = held.enter_context(received(file.filename, file.file, IMAGES, service.scratch))
    require_image(path)
    return Image(f"upload {uuid.uuid4().hex}", path)


async def _finished(request: Request, job: Job[InferenceFiles]) -> InferenceFiles:
    """The job's outcome; the job is cancelled when nobody waits for it any more."""
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
    said = made.params | {"job": job.id}
    if output == "json":
        return Response(json.dumps(said), media_type="application/json")
    if output == "image":
        return FileResponse(made.file, filename=made.file.name)
    if output == "dicom_seg":
        seg = made.folder / "seg.dcm"
        if not seg.is_file():
            reasons = (
                "; ".join(said.get("set_aside", [])) or "the image is no DICOM series, or the bundle makes no labels"
            )
            raise HTTPException(422, f"Found that no DICOM SEG can be written: {reasons}. Ask for output=image.")
        return FileResponse(seg, media_type="application/dicom", filename="seg.dcm")
    return _multipart(said, made)


def _multipart(said: dict[str, Any], made: InferenceFiles) -> Response:
    """Both in one answer: the JSON as the field ``params``, the file as ``image``."""
    mark = f"medvit{uuid.uuid4().hex}"
    name = f"{uuid.uuid4().hex}{''.join(made.file.suffixes[-2:]) if made.file.suffix == '.gz' else made.file.suffix}"
    head = (
        f'--{mark}\r\nContent-Disposition: form-data; name="params"\r\nContent-Type: application/json\r\n\r\n{json.dumps(said)}\r\n'
        f'--{mark}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\nContent-Type: application/octet-stream\r\n\r\n'
    )
    body = head.encode() + made.file.read_bytes() + f"\r\n--{mark}--\r\n".encode()
    return Response(body, media_type=f"multipart/form-data; boundary={mark}")


@router.get("/queue/")
def queue(service: CurrentProject) -> list[dict[str, Any]]:
    """The line of inferences with their progress."""
    return service.queue.listing()


@router.get("/queue/{job}")
def queued(service: CurrentProject, job: str) -> dict[str, Any]:
    """One inference and its progress."""
    return service.queue.find(job).shown()


@router.delete("/queue/{job}")
def cancel(request: Request, service: CurrentProject, job: str) -> dict[str, Any]:
    """Cancel an inference that waits or runs; with accounts an annotator's own only."""
    account, owner = account_of(request), service.queue.find(job).owner
    if account is not None and not account.reviews and account.name != owner:
        raise AccessError(
            f"Found an inference of {shown_name(owner)} to cancel; an annotator may cancel only their own. Ask a reviewer."
        )
    return service.queue.cancel(job).shown()


@router.get("/model/info/{model}")
def model_info(service: CurrentProject, model: str) -> dict[str, Any]:
    """The checksum and version of a model's weights."""
    bundle = service.model(model)
    return {
        "checksum": f"SHA256:{bundle.weights_sha256}",
        "modified_time": int(bundle.weights.stat().st_mtime),
        "version": bundle.version,
    }


@router.put("/model/{model}")
def refuse_model(service: CurrentProject, model: str) -> None:
    """No weights are taken over the network: a pickle could run code."""
    service.model(model)
    raise HTTPException(
        403,
        "Found weights sent to the server; it takes none, since a model file can run code. Use medvit bundles fetch.",
    )
