"""A model on every image without a final label, one after another behind whoever asks meanwhile: what ranks the cases to label next."""

from __future__ import annotations

import json
import shutil
import threading
from typing import TYPE_CHECKING, Any

from medvit.errors import MedvitError
from medvit_label.background_runs import DONE, RUNNING, STOPPED, Kind, Runs
from medvit_label.errors import BusyError
from medvit_label.images.local import Image
from medvit_label.inference.run import InferenceFiles, Params

if TYPE_CHECKING:
    from medvit_label.project import Project

__all__ = ["Batches"]

_KIND = Kind("batches", "batch", "POST /batch/infer/MODEL", "DELETE /batch/infer")
_RETRY_S = 1.0


class Batches:
    """One batch at a time; one that a stopped server left is gone on with, since what is done can be seen from the journal.

    Args:
        service: the project.
    """

    def __init__(self, service: Project) -> None:
        self._service, self._stop = service, threading.Event()
        self._runs = Runs(service.journal, _KIND)
        self._closing = False
        self._thread: threading.Thread | None = None

    def resume(self) -> None:
        """Go on with the batch that an earlier server left."""
        for row in self._runs.going():
            self._launch(row)

    def start(self, model: str, params: Params, save: bool) -> dict[str, Any]:
        """Begin a batch.

        Raises:
            BusyError: one is running. UnknownError: no such model. BundleError: it makes no labels.
        """
        self._service.model(model).require_task("segmentation")
        row = self._runs.add(model, {"params": params.model_dump(), "save": save, "made": 0, "failed": 0})
        self._launch(row)
        return self.shown(row["id"])

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
        if not self._closing:  # else it is still down as running: the next server goes on with it
            self._runs.write(row["id"], STOPPED if self._stop.is_set() else DONE, info)

    def left(self, model: str) -> list[Image]:
        """Images without a final label that the version which answers now has not been run on."""
        bundle = self._service.model(model)
        current = f"{bundle.name} {bundle.version}"
        rows = self._service.journal.rows("SELECT image, content FROM quality WHERE model = ?", model)
        judged = {row["image"] for row in rows if json.loads(row["content"]).get("bundle") == current}
        return [image for image in self._service.unlabelled() if image.id not in judged]

    def _one(self, model: str, image: Image, info: dict[str, Any]) -> bool:
        """Run the model on an image, when it is its turn; whether it made something."""
        try:
            made = self._inferred(model, image, Params.model_validate(info["params"]))
        except Exception:  # it is no image for this model, somebody cancelled it, or it met a fault: the others go on
            return False
        if made is None:
            return False
        try:
            if info["save"]:
                bundle = self._service.model(model)
                about = {"model": model, "bundle": made.params["bundle"]}
                self._service.labels.save(image, made.file, "original", bundle.facts.labels, about)
        except MedvitError:
            return False
        finally:
            shutil.rmtree(made.folder, ignore_errors=True)
        return True

    def _inferred(self, model: str, image: Image, params: Params) -> InferenceFiles | None:
        while not self._stop.is_set():
            try:
                job = self._service.submit(model, self._service.images.find(image.id), params)
            except BusyError:
                self._stop.wait(_RETRY_S)  # annotators come first
                continue
            while True:
                try:
                    return job.future.result(_RETRY_S)
                except TimeoutError:
                    if self._stop.is_set():
                        job.progress.cancel()
        return None

    def stop(self) -> dict[str, Any] | None:
        """Stop the batch there is; None where there is none."""
        rows = self._runs.going()
        if not rows:
            return None
        self._let_go()
        return self.shown(rows[0]["id"])

    def close(self) -> None:
        """Let it end for now; it is gone on with by the next server."""
        self._closing = True
        self._let_go()

    def _let_go(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def shown(self, identity: str | None = None) -> dict[str, Any]:
        """A batch as clients see it; by default the newest.

        Raises:
            UnknownError: there is none.
        """
        row = self._runs.row(identity)
        info = json.loads(row["info"])
        left = len(self.left(row["model"])) if row["state"] == RUNNING else 0
        return {
            "id": row["id"], "status": row["state"], "model": row["model"], "made": info["made"], "failed": info["failed"],
            "left": left, "start_ts": row["created"], "end_ts": row["ended"],
        }  # fmt: skip

    def running(self) -> bool:
        """Whether a batch is going on."""
        return self._runs.running()
