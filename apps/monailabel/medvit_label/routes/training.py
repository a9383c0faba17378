"""Endpoints of trainings, batches and versions of models. Paths are those of MONAI Label 0.8."""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter, Depends

from medvit_label.annotators import require_manager, require_reviewer
from medvit_label.errors import RequestError, UnknownError
from medvit_label.inference.run import read_params
from medvit_label.models.versions import INSTALLED
from medvit_label.routes.project import CurrentProject

__all__ = ["router"]

router = APIRouter()
_REVIEWER, _MANAGER = [Depends(require_reviewer)], [Depends(require_manager)]


@router.post("/train/", dependencies=_REVIEWER)
def train_all(project: CurrentProject, params: dict[str, Any] | None = None) -> dict[str, Any]:
    """Train the only trainable model; with several, ``params`` names one as ``model``."""
    content, trainers = params or {}, list(project.runs.fine_tuning.trainers())
    named = content.get("model") or (trainers[0] if len(trainers) == 1 else None)
    if not isinstance(named, str):
        raise RequestError(
            "no model to train in the request",
            "one is trained at a time",
            f"Name one of: {', '.join(trainers) or 'none'}.",
        )
    own = content.get(named)
    return project.runs.fine_tuning.start(named, own if isinstance(own, dict) else content)


@router.post("/train/{model}", dependencies=_REVIEWER)
def train_model(project: CurrentProject, model: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
    """Fine-tune a model on the final labels, in the background."""
    return project.runs.fine_tuning.start(model, params or {})


@router.get("/train/")
def train_status(project: CurrentProject, all: bool = False, check_if_running: bool = False) -> Any:
    """Return the newest training, or all; answer 404 if there is none or, with ``check_if_running``, if none runs."""
    if check_if_running and not project.runs.trainings.running():
        raise UnknownError("no training that runs", "start one: POST /train/MODEL")
    return project.runs.trainings.listing() if all else project.runs.trainings.summary()


@router.delete("/train/", dependencies=_REVIEWER)
def train_stop(project: CurrentProject) -> dict[str, Any] | None:
    """Stop the running training without publishing its weights."""
    return project.runs.trainings.stop()


@router.post("/batch/infer/{model}", dependencies=_REVIEWER)
def batch_start(project: CurrentProject, model: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
    """Run a model on each image without a final label, in the background; the strategy ``quality`` ranks them by the
    answers.
    """
    content = {"quality_map": True} | (params or {})
    return project.runs.batches.start(model, read_params(json.dumps(content))[0], bool(content.get("save_label", True)))


@router.get("/batch/infer")
def batch_status(project: CurrentProject, check_if_running: bool = False) -> dict[str, Any]:
    """Return the newest batch; answer 404 if there is none or, with ``check_if_running``, if none runs."""
    if check_if_running and not project.runs.batches.running():
        raise UnknownError("no batch that runs", "start one: POST /batch/infer/MODEL")
    return project.runs.batches.summary()


@router.delete("/batch/infer", dependencies=_REVIEWER)
def batch_stop(project: CurrentProject) -> dict[str, Any] | None:
    """Stop the running batch; its answers are kept."""
    return project.runs.batches.stop()


@router.get("/model/versions/{model}")
def versions(project: CurrentProject, model: str) -> list[dict[str, Any]]:
    """List the versions of a model with their scores; version 0 is the installed one, others were trained here."""
    return project.models.versions.listing(project.models.find(model, INSTALLED).name)


@router.post("/model/rollback/{model}", dependencies=_MANAGER)
def roll_back(project: CurrentProject, model: str, to: int | None = None) -> dict[str, Any]:
    """Serve the version from which the serving one was trained, or another by its number. Nothing is deleted."""
    number = project.runs.fine_tuning.roll_back(model, to)
    return {"model": model, "serving": number, "version": project.models.find(model).version}
