"""Inferences of a project: queued one after the other; answers are stored, and corrected by annotators."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, cast

from medvit.progress import Progress
from medvit.segmentation import Result
from medvit_label.annotators import Annotator
from medvit_label.images.repository import ImageRepository
from medvit_label.images.source import LabelImage
from medvit_label.inference.correction_history import AnnotatorCorrections
from medvit_label.inference.corrections import Correction
from medvit_label.inference.queue import Job, JobQueue
from medvit_label.inference.radiographs import require_lateral
from medvit_label.inference.run import (
    AnswerCache,
    InferenceFiles,
    InferenceRequest,
    Params,
    asks_restart,
    infer,
    read_params,
)
from medvit_label.labels.activity import ActivityRepository
from medvit_label.labels.predictions import PredictionRepository, Quality
from medvit_label.labels.saved_corrections import CorrectionRepository
from medvit_label.models.available import Models

__all__ = ["Inferences"]


class Inferences:
    """Inferences of models on images, one at a time.

    Args:
        models: the offered bundles.
        images: the project's images and sessions.
        predictions: repository of the last answers.
        corrections: repository of the annotators' corrections.
        activity: repository of the annotators' recent work.
        queue: queue of the running and waiting inferences.
        scratch: folder for the files that are sent to clients.
        device: see ``RunSettings.device``.
    """

    def __init__(
        self,
        *,
        models: Models,
        images: ImageRepository,
        predictions: PredictionRepository,
        corrections: CorrectionRepository,
        activity: ActivityRepository,
        queue: JobQueue,
        scratch: Path,
        device: str,
    ) -> None:
        self._models, self._images, self._predictions = models, images, predictions
        self._corrections, self._activity = corrections, activity
        self.queue, self._scratch, self._device = queue, scratch, device
        self._results = AnswerCache()

    def submit(
        self, model: str, image: LabelImage, params: Params, seg: bool = False, who: Annotator | None = None, restart: bool = False
    ) -> Job[InferenceFiles]:  # fmt: skip
        """Put an inference in the queue.

        Args:
            model: the bundle's name.
            image: the image.
            params: the client's settings.
            seg: True to write a DICOM SEG too.
            who: the annotator; None for the server itself.
            restart: True to drop the annotator's corrections of the image.

        Raises:
            UnknownError: there is no such model or lateral view. RequestError: a reconstruction has no lateral view.
            BusyError: the queue is full.
        """
        bundle, lateral = self._models.find(model), None
        if (
            bundle.facts.task == "reconstruction"
        ):  # before queueing, so that a request without its second view is refused at once
            named = bool(params.lateral or params.lateral_session)
            second = self._images.named(params.lateral, params.lateral_session) if named else None
            lateral = require_lateral(bundle, image, second)
        request = InferenceRequest(
            bundle=bundle, image=image, params=params, device=self._device, seg=seg, lateral=lateral
        )

        def work(progress: Progress) -> InferenceFiles:
            state = image.state()
            made = infer(request, self._scratch, progress)
            if isinstance(made.result, Result):
                self._keep_answer(image, model, made)
            if who is not None:
                own = AnnotatorCorrections(self._corrections, who, model, image.id, state)
                if isinstance(made.result, Result):
                    self._results.keep(own.key, state, made.result)
                    dropped = own.restart() if restart else []
                    words, made.params["corrections"] = own.remark()
                    made.params["notes"] += [*dropped, *words]
                self._note_work(made, image, who, "run")
            return made

        return self.queue.submit(work, model, image.id, who.name if who is not None else "")

    def submit_correction(
        self, model: str, image: LabelImage, content: dict[str, Any], drawn: Path | None, who: Annotator
    ) -> Job[InferenceFiles]:
        """Queue an annotator's clicks, scribbles or box, applied on top of earlier ones; run the model first if it has
        no answer yet.

        Args:
            model: the bundle's name.
            image: the image.
            content: the request's ``params``.
            drawn: scribbles as a label map.
            who: the annotator.

        Raises:
            UnknownError: there is no such model. BundleError: the model makes no labels. BusyError: the queue is full.
        """
        bundle, (params, _) = self._models.find(model), read_params(json.dumps(content))
        bundle.require_task("segmentation")
        request = InferenceRequest(bundle=bundle, image=image, params=params, device=self._device)

        def work(progress: Progress) -> InferenceFiles:
            state = image.state()
            own = AnnotatorCorrections(self._corrections, who, model, image.id, state)
            anew = asks_restart(content)
            plain = self._results.get(own.key, state)
            if plain is None or anew:
                first = infer(request, self._scratch, progress)
                shutil.rmtree(first.folder, ignore_errors=True)
                plain = cast(Result, first.result)
                if own.lasting:
                    self._results.keep(own.key, state, plain)
            correction = Correction(content, drawn, params, self._device)
            made = own.correct(plain, correction, self._scratch, progress, anew)
            self._note_work(made, image, who, "corrected")
            return made

        return self.queue.submit(work, model, image.id, who.name)

    def forget(self, model: str) -> None:
        """Drop a model's answers in memory, since another version of it serves from now on."""
        self._results.forget(model)

    def close(self) -> None:
        """Cancel all inferences and wait until the running one has ended."""
        self.queue.close()

    def _keep_answer(self, image: LabelImage, model: str, made: InferenceFiles) -> None:
        """Store an answer, to score labels against it, and its quality, to rank the cases."""
        if image.outside:
            return
        assert isinstance(made.result, Result)
        self._predictions.keep(model, image.id, made.result.array, made.result.bundle.version)
        content = {
            "quality": made.params["quality"], "agreement": made.result.agreement(), "bundle": made.params["bundle"],
            "seconds": made.params["latencies"]["total"] if "latencies" in made.params else None,
        }  # fmt: skip
        self._predictions.keep_quality(Quality(image=image.id, model=model, content=content))

    def _note_work(self, made: InferenceFiles, image: LabelImage, who: Annotator, action: str) -> None:
        """Record the annotator's work on an image of the project; add notes on others who recently worked on the image."""
        if image.outside:
            return
        made.params["others"] = self._activity.note(image.id, who.name, action)
        made.params["notes"] += made.params["others"]
