"""Fine-tuning of a model on the project's final labels, and the choice of the version that serves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from medvit.bundles import Bundle
from medvit.errors import BundleError
from medvit_label.inference.inferences import Inferences
from medvit_label.journal import Journal
from medvit_label.models.available import Models
from medvit_label.models.versions import INSTALLED
from medvit_label.request_params import read_settings
from medvit_label.training.cases import LEAST, CaseCollector
from medvit_label.training.jobs import FinishedRun, Trainings, TrainParams

__all__ = ["FineTuner"]


class FineTuner:
    """Fine-tuning of models; new weights are published if they score higher.

    Args:
        folder: folder of the project's state.
        journal: the project's journal.
        models: the offered bundles with their versions.
        cases: collector of the labels to train on.
        inferences: inferences, whose answers in memory are dropped when a new version serves.
        device: see ``RunSettings.device``.

    Attributes:
        trainings: training runs, one at a time.
    """

    def __init__(
        self,
        *,
        folder: Path,
        journal: Journal,
        models: Models,
        cases: CaseCollector,
        inferences: Inferences,
        device: str,
    ) -> None:
        self._models, self._cases, self._inferences, self._device = models, cases, inferences, device
        self.trainings = Trainings(folder, journal, self._publish_if_better, self._worker_arguments)

    def trainers(self) -> dict[str, Any]:
        """Return the trainable models with the settings that a client may change, in the form of ``GET /info/``."""
        words = f"Fine-tunes on final labels ({LEAST} at least); the new weights serve only if they score higher on the cases held out."
        return {
            name: {"type": "segmentation", "description": words, "config": TrainParams().model_dump()}
            for name, bundle in self._models.served().items()
            if _reason_against_training(bundle) is None
        }

    def start(self, model: str, content: dict[str, Any]) -> dict[str, Any]:
        """Start fine-tuning the version that serves; return the run.

        Args:
            model: the bundle's name.
            content: the request's ``params``.

        Raises:
            UnknownError: there is no such model. BundleError: the model cannot be trained. RequestError: there are too
                few labels.
            BusyError: a training is running.
        """
        bundle, params = self._models.find(model), read_settings(TrainParams, content)
        reason = _reason_against_training(bundle)
        if reason is not None:
            raise BundleError(
                f"{reason} in the request to train {model}",
                "a bundle for segmentation with configs for training and evaluation is needed",
                f"Name one of: {', '.join(self.trainers()) or 'none'}.",
            )

        def prepare(folder: Path) -> dict[str, Any]:
            cases = self._cases.collect(bundle, params.validation_share, folder / "data")
            names = [label.image for label in (*cases.training, *cases.validation)]
            return {
                "base": self._models.versions.serving(model),
                "split": cases.summary(),
                "params": params.model_dump(),
                "images": names,
            }

        return self.trainings.start(model, prepare)

    def roll_back(self, model: str, to: int | None) -> int:
        """Serve another version from now on; return its number.

        Args:
            model: the bundle's name.
            to: number of the version; None for the one from which the serving version was trained.

        Raises:
            UnknownError: there is no such model or version.
        """
        self._models.find(model, INSTALLED)
        number = self._models.versions.roll_back(model, to)
        self._inferences.forget(model)
        return number

    def _worker_arguments(self, row: dict[str, Any], folder: Path) -> dict[str, Any]:
        """Return the arguments of a run's process. The bundle's folder is looked up now, since the project's files do
        not store it.
        """
        info, model = json.loads(row["info"]), row["model"]
        installed, base = self._models.find(model, INSTALLED), self._models.find(model, info["base"])
        return {
            "folder": str(folder.resolve()), "base": str(base.root), "device": self._device,
            "version": f"{installed.version}+project.{self._models.versions.next(model)}",
            **info["params"],
        }  # fmt: skip

    def _publish_if_better(self, ended: FinishedRun) -> int | None:
        """Publish the weights of a finished run if they score higher than those it started from; return the version's
        number, else None.
        """
        before, after = ended.outcome["before"], ended.outcome["after"]
        if not after > before:
            return None
        versions = self._models.versions
        earlier = [row["version"] for row in versions.listing(ended.model) if row.get("run") == ended.run]
        if earlier:  # published by a server that stopped before it could record this
            return int(earlier[0])
        number = versions.publish(
            ended.model, ended.candidate,
            {"run": ended.run, "from": ended.base, "metric": ended.outcome["metric"], "before": before, "after": after, "split": ended.split, "params": ended.params},
        )  # fmt: skip
        self._inferences.forget(ended.model)
        return number


def _reason_against_training(bundle: Bundle) -> str | None:
    """Return the reason why a bundle cannot be trained here; None if it can."""
    if bundle.facts.task != "segmentation":
        return f"a bundle for {bundle.facts.task}"
    absent = [name for name in ("train", "evaluate") if not (bundle.root / "configs" / f"{name}.json").is_file()]
    return f"no configs/{absent[0]}.json" if absent else None
