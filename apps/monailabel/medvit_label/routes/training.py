"""Endpoints of what goes on in the background, training and batches, and of the versions made. Paths are MONAI Label 0.8's."""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter, Depends

from medvit_label.annotators import require_manager, require_reviewer
from medvit_label.errors import RequestError, UnknownError
from medvit_label.inference.run import read_params
from medvit_label.models.versions import INSTALLED
from medvit_label.routes.project import CurrentProject
from medvit_label.training import fine_tuning as tuning

__all__ = ["router"]

router = APIRouter()
_REVIEWER, _MANAGER = [Depends(require_reviewer)], [Depends(require_manager)]


@router.post("/train/", dependencies=_REVIEWER)
def train_all(service: CurrentProject, params: dict[str, Any] | None = None) -> dict[str, Any]:
    """Train the one model there is to train; with several, ``params`` names it as ``model``."""
    content, trainers = params or {}, list(tuning.trainers(service))
    named = content.get("model") or (trainers[0] if len(trainers) == 1 else None)
    if not isinstance(named, str):
        raise RequestError(
            f"Found no model to train in the request; one is trained at a time. Name one of: {', '.join(trainers) or 'none'}."
        )
    own = content.get(named)
    return tuning.train(service, named, own if isinstance(own, dict) else content)


@router.post("/train/{model}", dependencies=_REVIEWER)
def train_model(service: CurrentProject, model: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
    """Fine-tune a model from the final labels, in the background."""
    return tuning.train(service, model, params or {})


@router.get("/train/")
def train_status(service: CurrentProject, all: bool = False, check_if_running: bool = False) -> Any:
    """The newest run, or all; 404 where there is none, or with ``check_if_running`` none that runs."""
    if check_if_running and not service.trainings.running():
        raise UnknownError("Found no training that runs; start one: POST /train/MODEL.")
    return service.trainings.listing() if all else service.trainings.shown()


@router.delete("/train/", dependencies=_REVIEWER)
def train_stop(service: CurrentProject) -> dict[str, Any] | None:
    """Stop the run there is; nothing of it is published."""
    return service.trainings.stop()


@router.post("/batch/infer/{model}", dependencies=_REVIEWER)
def batch_start(service: CurrentProject, model: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
    """Run a model on every image without a final label, in the background; ranks them for the strategy ``quality``."""
    content = {"quality_map": True} | (params or {})
    return service.batches.start(model, read_params(json.dumps(content))[0], bool(content.get("save_label", True)))


@router.get("/batch/infer")
def batch_status(service: CurrentProject, check_if_running: bool = False) -> dict[str, Any]:
    """The newest batch; 404 where there is none, or with ``check_if_running`` none that runs."""
    if check_if_running and not service.batches.running():
        raise UnknownError("Found no batch that runs; start one: POST /batch/infer/MODEL.")
    return service.batches.shown()


@router.delete("/batch/infer", dependencies=_REVIEWER)
def batch_stop(service: CurrentProject) -> dict[str, Any] | None:
    """Stop the batch there is; what it made stays."""
    return service.batches.stop()


@router.get("/model/versions/{model}")
def versions(service: CurrentProject, model: str) -> list[dict[str, Any]]:
    """The versions of a model: 0 as installed, others made here; which serves, and their scores."""
    return service.versions.listing(service.model(model, INSTALLED).name)


@router.post("/model/rollback/{model}", dependencies=_MANAGER)
def roll_back(service: CurrentProject, model: str, to: int | None = None) -> dict[str, Any]:
    """Serve the version that this one was trained from, or another by its number. Nothing is deleted."""
    number = tuning.roll_back(service, model, to)
    return {"model": model, "serving": number, "version": service.model(model).version}
