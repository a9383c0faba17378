"""Batch that runs a model on each image without a final label, in the background; the answers rank the cases to label
next.
"""

from __future__ import annotations

import json
import shutil
import threading
from typing import Any

from medvit.errors import MedvitError
from medvit_label.background_runs import DONE, RUNNING, STOPPED, RunKind, RunRepository
from medvit_label.errors import BusyError
from medvit_label.images.repository import ImageRepository
from medvit_label.images.source import LabelImage
from medvit_label.inference.inferences import Inferences
from medvit_label.inference.run import InferenceFiles, Params
from medvit_label.journal import Journal
from medvit_label.labels.predictions import PredictionRepository
from medvit_label.labels.store import LabelRepository
from medvit_label.models.available import Models

__all__ = ["Batches"]

_KIND = RunKind("batches", "batch", "POST /batch/infer/MODEL", "DELETE /batch/infer")
_RETRY_S = 1.0


class Batches:
    """Batches, one at a time; a new server continues a batch that a stopped server left unfinished.

    Args:
        journal: the project's journal.
        images: the project's images.
        labels: repository of labels, which lists the images without a final one.
        models: the offered bundles.
        predictions: repository of the last answers, which lists the images a model has been run on.
        inferences: queue of inferences, in which annotators take precedence.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        images: ImageRepository,
        labels: LabelRepository,
        models: Models,
        predictions: PredictionRepository,
        inferences: Inferences,
    ) -> None:
        self._images, self._labels, self._models = images, labels, models
        self._predictions, self._inferences = predictions, inferences
        self._runs, self._stop = RunRepository(journal, _KIND), threading.Event()
        self._closing = False
        self._thread: threading.Thread | None = None

    def resume(self) -> None:
        """Continue the batch that an earlier server left unfinished."""
        for row in self._runs.running():
            self._launch(row)

    def start(self, model: str, params: Params, save: bool) -> dict[str, Any]:
        """Start a batch.

        Raises:
            BusyError: a batch is running. UnknownError: there is no such model. BundleError: the model makes no labels.
        """
        self._models.find(model).require_task("segmentation")
        row = self._runs.add(model, {"params": params.model_dump(), "save": save, "made": 0, "failed": 0})
        self._launch(row)
        return self.summary(row["id"])

    def _launch(self, row: dict[str, Any]) -> None:
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, args=(row,), name="batch")
        self._thread.start()

    def _run(self, row: dict[str, Any]) -> None:
        info, tried = json.loads(row["info"]), set[str]()
        while not self._stop.is_set():
            left = [image for image in self.left(row["model"]) if image.id not in tried]
            if not left:
                break
            tried.add(left[0].id)
            made = self._one(row["model"], left[0], info)
            if made or not self._stop.is_set():
                info["made" if made else "failed"] += 1
            self._runs.write(row["id"], RUNNING, info)
        if not self._closing:  # otherwise the state stays "running", and the next server continues the batch
            self._runs.write(row["id"], STOPPED if self._stop.is_set() else DONE, info)

    def left(self, model: str) -> list[LabelImage]:
        """Return the images without a final label on which the serving version has not been run."""
        bundle = self._models.find(model)
        answered = self._predictions.images_answered_by(f"{bundle.name} {bundle.version}")
        return [image for image in self._labels.unlabelled() if image.id not in answered]

    def _one(self, model: str, image: LabelImage, info: dict[str, Any]) -> bool:
        """Run the model on an image; return True if it gave a result."""
        try:
            made = self._infer(model, image, Params.model_validate(info["params"]))
        except Exception:  # a refused image, a cancelled run or a fault ends this image only
            return False
        if made is None:
            return False
        try:
            if info["save"]:
                bundle = self._models.find(model)
                about = {"model": model, "bundle": made.params["bundle"]}
                self._labels.save(image, made.file, "original", bundle.facts.labels, about)
        except MedvitError:
            return False
        finally:
            shutil.rmtree(made.folder, ignore_errors=True)
        return True

    def _infer(self, model: str, image: LabelImage, params: Params) -> InferenceFiles | None:
        while not self._stop.is_set():
            try:
                job = self._inferences.submit(model, self._images.find(image.id), params)
            except BusyError:
                self._stop.wait(_RETRY_S)  # annotators take precedence
                continue
            while True:
                try:
                    return job.future.result(_RETRY_S)
                except TimeoutError:
                    if self._stop.is_set():
                        job.progress.cancel()
        return None

    def stop(self) -> dict[str, Any] | None:
        """Stop the running batch and return it; None if none runs."""
        rows = self._runs.running()
        if not rows:
            return None
        self._end_thread()
        return self.summary(rows[0]["id"])

    def close(self) -> None:
        """Interrupt the running batch; the next server continues it."""
        self._closing = True
        self._end_thread()

    def _end_thread(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def summary(self, identity: str | None = None) -> dict[str, Any]:
        """Return a batch in the form that clients get; by default the newest.

        Raises:
            UnknownError: there is no such batch.
        """
        row = self._runs.row(identity)
        info = json.loads(row["info"])
        left = len(self.left(row["model"])) if row["state"] == RUNNING else 0
        return {
            "id": row["id"], "status": row["state"], "model": row["model"], "made": info["made"], "failed": info["failed"],
            "left": left, "start_ts": row["created"], "end_ts": row["ended"],
        }  # fmt: skip

    def running(self) -> bool:
        """Return whether a batch is running."""
        return bool(self._runs.running())
