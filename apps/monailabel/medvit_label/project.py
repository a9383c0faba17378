"""A label project: repositories of its images, labels, corrections and models, and its runs, on one journal."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from medvit_label.images.local import LocalImages
from medvit_label.images.repository import ImageRepository
from medvit_label.images.sessions import SessionRepository
from medvit_label.images.source import ImageSource
from medvit_label.inference.all_images import Batches
from medvit_label.inference.inferences import Inferences
from medvit_label.inference.queue import JobQueue
from medvit_label.journal import Journal
from medvit_label.labels.activity import ActivityRepository
from medvit_label.labels.predictions import PredictionRepository
from medvit_label.labels.saved_corrections import CorrectionRepository
from medvit_label.labels.store import LabelRepository
from medvit_label.models.available import Models
from medvit_label.models.versions import VersionRepository
from medvit_label.settings import ServerSettings, is_url
from medvit_label.training.cases import CaseCollector, SplitRepository
from medvit_label.training.fine_tuning import FineTuner
from medvit_label.training.jobs import Trainings

__all__ = ["Project", "Runs"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Runs:
    """The runs of a project.

    Attributes:
        inferences: runs on single images, one at a time.
        batches: runs on all images without a final label, in the background.
        fine_tuning: trainings, and the versions of models that they publish.
    """

    inferences: Inferences
    batches: Batches
    fine_tuning: FineTuner

    @property
    def trainings(self) -> Trainings:
        """The training runs."""
        return self.fine_tuning.trainings

    def resume(self) -> None:
        """Continue the training and the batch that an earlier server left unfinished."""
        self.trainings.resume()
        self.batches.resume()

    def close(self) -> None:
        """Cancel all runs; the next server continues a training or batch."""
        self.batches.close()
        self.trainings.close()
        self.inferences.close()


class Project:
    """State of a label project, used by all endpoints; safe to use from several threads.

    Args:
        settings: checked settings.

    Attributes:
        images: repository of the images, with notes of clients and sessions.
        labels: repository of the versioned labels.
        predictions: repository of the models' last answers.
        corrections: repository of the annotators' corrections.
        activity: repository of assignments and the annotators' recent work.
        models: the offered bundles; ``models.versions`` is the repository of their versions.
        runs: inferences, batches and trainings.
        scratch: folder for temporary files of a request.
    """

    def __init__(self, settings: ServerSettings) -> None:
        state, limits = settings.state, settings.limits
        self.settings, self.scratch = settings, state / "scratch"
        self._journal = journal = Journal(state)
        shutil.rmtree(self.scratch, ignore_errors=True)  # left by a killed server
        self.scratch.mkdir(parents=True)
        self.models = Models(settings.bundles, VersionRepository(state, journal))
        self.corrections = CorrectionRepository(state, journal, limits.corrections)
        sessions = SessionRepository(state, journal, limits.session_s, self.corrections.drop_image)
        self.images = ImageRepository(_image_source(settings, self.models), sessions, journal)
        self.labels = LabelRepository(state, journal, self.images)
        self.predictions = PredictionRepository(state, journal)
        self.activity = ActivityRepository(journal)
        self.runs = self._make_runs()
        self.runs.resume()

    def _make_runs(self) -> Runs:
        settings, journal = self.settings, self._journal
        inferences = Inferences(
            models=self.models, images=self.images, predictions=self.predictions, corrections=self.corrections,
            activity=self.activity, queue=JobQueue(settings.limits.waiting), scratch=self.scratch, device=settings.device,
        )  # fmt: skip
        batches = Batches(
            journal=journal, images=self.images, labels=self.labels, models=self.models, predictions=self.predictions,
            inferences=inferences,
        )  # fmt: skip
        fine_tuning = FineTuner(
            folder=settings.state, journal=journal, models=self.models, inferences=inferences, device=settings.device,
            cases=CaseCollector(self.images, self.labels, SplitRepository(journal)),
        )  # fmt: skip
        return Runs(inferences=inferences, batches=batches, fine_tuning=fine_tuning)

    def close(self) -> None:
        """Cancel all runs and close the journal; the next server continues a training or batch."""
        self.runs.close()
        self._journal.close()
        shutil.rmtree(self.scratch, ignore_errors=True)


def _image_source(settings: ServerSettings, models: Models) -> ImageSource:
    """Return the local folder or the DICOMweb service that holds the project's images."""
    if not is_url(settings.studies):
        return LocalImages(Path(settings.studies), settings.state, settings.geometry)
    from medvit_label.images.dicomweb import DicomWebImages

    modalities = {modality for bundle in models.installed().values() for modality in bundle.facts.modalities}
    return DicomWebImages(settings.studies, settings.state / "dicomweb", tuple(sorted(modalities)), settings.login)
