"""Training runs in the background: one at a time, each in a separate process, continued by the next server."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, Field

from medvit.errors import MedvitError
from medvit_label.background_runs import DONE, ERROR, RUNNING, STOPPED, RunKind, RunRepository
from medvit_label.errors import request_words
from medvit_label.journal import Journal
from medvit_label.training.process import OUTCOME, STAGE

__all__ = ["FinishedRun", "TrainParams", "Trainings"]

_KIND = RunKind("trainings", "training", "POST /train/MODEL", "DELETE /train/")
_GRACE_S = 10
_HEAVY = ("run", "data", "candidate")
"""Folders that are deleted when the run has ended, since they hold copies of images."""


class TrainParams(BaseModel):
    """Settings of a training run that a client may change; other keys that it sends are ignored."""

    model_config = ConfigDict(extra="ignore")

    steps: int = Field(default=200, ge=1, le=1_000_000)
    learning_rate: float = Field(default=1e-4, gt=0, le=0.1)
    validation_share: float = Field(default=0.2, ge=0.05, le=0.5)


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """A training run that ended with an outcome.

    Attributes:
        run: id of the run.
        model: the bundle's name.
        base: number of the version from which it started.
        candidate: folder of the new bundle.
        outcome: scores before and after training.
        split: split of the cases, in the form that clients get.
        params: settings from the client.
    """

    run: str
    model: str
    base: int
    candidate: Path
    outcome: dict[str, Any]
    split: dict[str, Any]
    params: dict[str, Any]


class Publisher(Protocol):
    """Publisher of the weights of a finished run, if they are better."""

    def __call__(self, ended: FinishedRun) -> int | None:
        """Return the number of the new version; None if the weights are not better."""
        ...


class Trainings:
    """Training runs in ``<state>/training/<id>``.

    Args:
        folder: folder of the project's state.
        journal: the project's journal.
        publish: publisher, called with each finished run.
        worker_arguments: function that makes the arguments of a run's process from the run's row and folder.
    """

    def __init__(
        self,
        folder: Path,
        journal: Journal,
        publish: Publisher,
        worker_arguments: Callable[[dict[str, Any], Path], dict[str, Any]],
    ) -> None:
        self._folder, self._publish, self._worker_arguments = folder / "training", publish, worker_arguments
        self._runs = RunRepository(journal, _KIND)
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._watcher: threading.Thread | None = None
        self._stopping, self._closing = False, False

    def resume(self) -> None:
        """Continue the run that an earlier server left unfinished, and delete files that it left behind."""
        going = self._runs.running()
        left = {row["id"] for row in self._runs.all()} - {row["id"] for row in going}
        for identity in left:
            self._clear(self._folder / identity)
        for row in going:
            try:
                with self._lock:
                    self._launch(row)
            except MedvitError as error:  # such as a removed bundle; the project is served nevertheless
                self._end(row, ERROR, {"reason": error.sentence(request_words)})

    def start(self, model: str, prepare: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
        """Start a run.

        Args:
            model: the bundle's name.
            prepare: function that writes the cases into the run's folder and returns facts to store with the run
                (``base``, ``split``, ``params``).

        Raises:
            BusyError: a training is running.
        """
        with self._lock:
            self._runs.require_none()
            identity = uuid.uuid4().hex
            folder = self._folder / identity
            try:
                info = prepare(folder)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
            self._launch(self._runs.add(model, info, identity))
        return self.summary(identity)

    def _launch(self, row: dict[str, Any]) -> None:
        folder = self._folder / row["id"]
        self._stopping = False
        process = None
        if not (folder / OUTCOME).is_file():  # otherwise the process ended while no server was running
            arguments = self._worker_arguments(row, folder)
            with (folder / "log.txt").open("ab") as log:
                process = subprocess.Popen(
                    [sys.executable, "-m", "medvit_label.training.process"], stdin=subprocess.PIPE, stdout=log, stderr=log, text=True
                )  # fmt: skip
            assert process.stdin is not None
            with suppress(OSError):  # the process could not start; the watcher records its end
                process.stdin.write(json.dumps(arguments) + "\n")
                process.stdin.flush()
        self._process = process
        self._watcher = threading.Thread(target=self._watch, args=(row, folder, process), name="training")
        self._watcher.start()

    def _watch(self, row: dict[str, Any], folder: Path, process: subprocess.Popen[str] | None) -> None:
        code = 0 if process is None else process.wait()
        if self._closing:
            return  # the state stays "running", and the next server continues the run
        if self._stopping:
            self._end(row, STOPPED, {})
        else:
            self._end(row, *self._outcome(row, folder, code))
        self._clear(folder)

    @staticmethod
    def _clear(folder: Path) -> None:
        for heavy in _HEAVY:
            shutil.rmtree(folder / heavy, ignore_errors=True)

    def _outcome(self, row: dict[str, Any], folder: Path, code: int) -> tuple[str, dict[str, Any]]:
        """Return the state of an ended run, and facts to add to its info."""
        try:
            outcome = json.loads((folder / OUTCOME).read_text())
        except (OSError, ValueError):
            return ERROR, {
                "reason": f"Found that the training ended with code {code} before its last step; see training/{row['id']}/log.txt in the project, "
                "then start it again."
            }
        if "error" in outcome:
            return ERROR, {"reason": outcome["error"].replace(str(folder), "…")}
        info = json.loads(row["info"])
        candidate = folder / "candidate" / row["model"]
        ended = FinishedRun(
            run=row["id"],
            model=row["model"],
            base=info["base"],
            candidate=candidate,
            outcome=outcome,
            split=info["split"],
            params=info["params"],
        )
        try:
            return DONE, {"outcome": outcome, "published": self._publish(ended)}
        except Exception as error:
            return ERROR, {
                "outcome": outcome,
                "reason": f"Found that the new weights could not be published ({type(error).__name__}); see that the project's folder can be written, then train again.",
            }

    def _end(self, row: dict[str, Any], state: str, more: dict[str, Any]) -> None:
        curve = {"steps_done": self._step(row["id"], row["model"])}
        with self._lock:
            self._runs.write(row["id"], state, json.loads(row["info"]) | curve | more)

    def stop(self) -> dict[str, Any] | None:
        """Stop the running training and return it; None if none runs."""
        with self._lock:
            rows = self._runs.running()
            if not rows:
                return None
            self._stopping = True
        self._end_process()
        return self.summary(rows[0]["id"])

    def close(self) -> None:
        """Interrupt the running training; the next server continues it."""
        self._closing = True
        self._end_process()

    def _end_process(self) -> None:
        process, watcher = self._process, self._watcher
        if process is not None and process.stdin is not None:
            process.stdin.close()
            try:
                process.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
        if watcher is not None:
            watcher.join()

    def running(self) -> bool:
        """Return whether a training is running."""
        return bool(self._runs.running())

    def summary(self, identity: str | None = None) -> dict[str, Any]:
        """Return a run in the form that clients get, with MONAI Label's keys and others; by default the newest.

        Raises:
            UnknownError: there is no such run.
        """
        return self._summary(self._runs.row(identity))

    def listing(self) -> list[dict[str, Any]]:
        """Return all runs in the form that clients get, oldest first."""
        return [self._summary(row) for row in self._runs.all()]

    def statistics(self) -> dict[str, Any]:
        """Return the newest finished run of each model, in the form of MONAI Label's ``train_stats``."""
        return {
            run["model"]: {
                "name": "train", "start_ts": run["start_ts"], "total_time": f"{run['seconds']:.0f} s", "epoch": run["done"],
                "best_metric": run["after"], "best_metric_key": run["metric"],
            }
            for run in self.listing() if run["status"] == DONE
        }  # fmt: skip

    def _summary(self, row: dict[str, Any]) -> dict[str, Any]:
        info, folder = json.loads(row["info"]), self._folder / row["id"]
        steps = int(info["params"]["steps"])
        going = row["state"] == RUNNING
        stage = (folder / STAGE).read_text() if going and (folder / STAGE).is_file() else ""
        done = self._step(row["id"], row["model"]) if going else info.get("steps_done", 0)
        outcome = info.get("outcome") or {}
        return {
            "id": row["id"], "model": row["model"], "status": row["state"],
            "request": {"model": row["model"], **info["params"]},
            "start_ts": _moment(row["created"]), "end_ts": _moment(row["ended"]) if row["ended"] else "",
            "details": self._lines(folder), "stage": stage, "done": done, "total": steps, "split": info["split"],
            "from": info["base"], "metric": outcome.get("metric"), "before": outcome.get("before"),
            "after": outcome.get("after"), "published": info.get("published"), "reason": info.get("reason", ""),
            "seconds": round((row["ended"] or time.time()) - row["created"], 1),
        }  # fmt: skip

    def _step(self, identity: str, model: str) -> int:
        """Return the last step in the run's curve; the curve holds every twentieth step, or more steps in a short run."""
        curve = self._folder / identity / "run" / model / "curve.csv"
        try:
            with curve.open(newline="") as file:
                steps = [int(row["step"]) for row in csv.DictReader(file) if row["step"].isdigit()]
        except (OSError, KeyError, AttributeError):
            return 0
        return steps[-1] if steps else 0

    def _lines(self, folder: Path) -> list[str]:
        """Return the log's last lines about steps; lines that name folders are left out."""
        try:
            lines = (folder / "log.txt").read_text(errors="replace").splitlines()
        except OSError:
            return []
        return [line for line in lines if line.startswith("step ")][-20:]


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
