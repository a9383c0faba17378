"""What a running server holds: the project's images and labels, its bundles, the line of inferences."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from medvit.bundles import Bundle
from medvit.io.labels import clean_name
from medvit.progress import Progress
from medvit.segmentation import Result
from medvit_label.annotators import Annotator
from medvit_label.errors import RequestError
from medvit_label.images.local import Image, Images, LocalImages
from medvit_label.images.sessions import Sessions
from medvit_label.inference.all_images import Batches
from medvit_label.inference.correction_history import Correcting
from medvit_label.inference.corrections import Correction
from medvit_label.inference.queue import Job, JobQueue
from medvit_label.inference.radiographs import CONFIG, require_lateral
from medvit_label.inference.run import Asked, InferenceFiles, Params, Results, infer, read_params, restarts, truth
from medvit_label.journal import Journal
from medvit_label.labels.label_info import read_label_info
from medvit_label.labels.next_case import STRATEGIES
from medvit_label.labels.predictions import Predictions
from medvit_label.labels.presence import Presence
from medvit_label.labels.saved_corrections import KeptCorrections
from medvit_label.labels.scoring import note_scores
from medvit_label.labels.store import FINAL, LabelStore, StoredLabel
from medvit_label.models.offered import TASKS, Models
from medvit_label.models.versions import Versions
from medvit_label.settings import ServerSettings, is_url
from medvit_label.training import fine_tuning as tuning
from medvit_label.training.jobs import Trainings

__all__ = ["Project"]


class Project:
    """The state behind every endpoint; safe to use from several threads.

    Args:
        settings: checked settings.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self.journal = Journal(settings.state)
        self.scratch = settings.state / "scratch"
        shutil.rmtree(self.scratch, ignore_errors=True)  # left by a server that was killed
        self.scratch.mkdir(parents=True)
        self.versions = Versions(settings.state, self.journal)
        self._models = Models(settings.bundles, self.versions)
        self.images: Images = self._open_images()
        self.labels = LabelStore(settings.state, self.journal, self.images)
        self.corrections = KeptCorrections(settings.state, self.journal, settings.limits.corrections)
        self.presence = Presence(self.journal)
        self.sessions = Sessions(settings.state, self.journal, settings.limits.session_s, self.corrections.drop_image)
        self.queue = JobQueue(settings.limits.waiting)
        self.results = Results()
        self.predictions = Predictions(settings.state)
        self.trainings = Trainings(
            settings.state,
            self.journal,
            lambda ended: tuning.adopt(self, ended),
            lambda row, folder: tuning.worker_arguments(self, row, json.loads(row["info"]), folder),
        )
        self.batches = Batches(self)
        self.trainings.resume()
        self.batches.resume()

    def _open_images(self) -> Images:
        if not is_url(self.settings.studies):
            return LocalImages(Path(self.settings.studies), self.settings.state, self.settings.geometry)
        from medvit_label.images.dicomweb import DicomWebImages

        modalities = {m for bundle in self._models.installed().values() for m in bundle.facts.modalities}
        return DicomWebImages(
            self.settings.studies, self.settings.state / "dicomweb", tuple(sorted(modalities)), self.settings.login
        )

    def close(self) -> None:
        """Cancel what runs and let go of the journal; a training or batch goes on when the project is served again."""
        self.batches.close()
        self.trainings.close()
        self.queue.close()
        self.journal.close()
        shutil.rmtree(self.scratch, ignore_errors=True)

    def models(self) -> dict[str, Bundle]:
        """The bundles that answer, by name."""
        return self._models.served()

    def model(self, name: str, version: int | None = None) -> Bundle:
        """The bundle of that name that answers, or another version of it.

        Raises:
            UnknownError: it is not on offer.
        """
        return self._models.find(name, version)

    def table_for(self, image: Image, model: str | None, names: Iterable[str] = ()) -> Bundle | None:
        """Find the bundle whose labels an annotation uses.

        Args:
            image: the labelled image.
            model: the bundle that the client names; empty for the only one that fits the image and has all names.
            names: names of the annotation's labels.

        Raises:
            UnknownError: no such model.
        """
        if model:
            return self.model(model)
        found = [
            b for b in self.models().values()
            if b.facts.task == "segmentation" and b.facts.mismatch(b.name, image.is_picture, image.modality) is None
        ]  # fmt: skip
        if len(found) > 1:
            keys = {clean_name(name, name) for name in names}
            found = [b for b in found if keys and keys <= _names_of(b)]
        return found[0] if len(found) == 1 else None

    def submit(
        self, model: str, image: Image, params: Params, seg: bool = False, who: Annotator | None = None, restart: bool = False
    ) -> Job[InferenceFiles]:  # fmt: skip
        """Put an inference in line.

        Args:
            model: the bundle's name.
            image: the image.
            params: how.
            seg: whether a DICOM SEG is wanted too.
            who: the annotator; None for the server itself.
            restart: forget the annotator's corrections of the image.

        Raises:
            UnknownError: no such model or lateral view. RequestError: a reconstruction without lateral view. BusyError: a full line.
        """
        bundle, lateral = self.model(model), None
        if bundle.facts.task == "reconstruction":  # before the line: whoever forgot the second view need not wait
            named = bool(params.lateral or params.lateral_session)
            second = self.image_of(params.lateral, params.lateral_session) if named else None
            lateral = require_lateral(bundle, image, second)
        asked = Asked(bundle, image, params, self.settings.device, seg, lateral)

        def work(progress: Progress) -> InferenceFiles:
            state = image.state()
            made = infer(asked, self.scratch, progress)
            if isinstance(made.result, Result):
                self._judge(image, model, made)
            if who is not None:
                own = Correcting(self.corrections, who, model, image.id, state)
                if isinstance(made.result, Result):
                    self.results.keep(own.key, state, made.result)
                    dropped = own.restart() if restart else []
                    words, made.params["corrections"] = own.remark()
                    made.params["notes"] += [*dropped, *words]
                self._tell_others(made, image, who, "run")
            return made

        return self.queue.submit(work, model, image.id, who.name if who is not None else "")

    def submit_refinement(
        self, model: str, image: Image, content: dict[str, Any], drawn: Path | None, who: Annotator
    ) -> Job[InferenceFiles]:
        """Put an annotator's clicks, scribbles or box in line, on top of those before; the model is run first if it was not."""
        bundle, (params, _) = self.model(model), read_params(json.dumps(content))
        bundle.require_task("segmentation")
        asked = Asked(bundle, image, params, self.settings.device)

        def work(progress: Progress) -> InferenceFiles:
            state = image.state()
            own = Correcting(self.corrections, who, model, image.id, state)
            anew = restarts(content)
            plain = self.results.get(own.key, state)
            if plain is None or anew:
                first = infer(asked, self.scratch, progress)
                shutil.rmtree(first.folder, ignore_errors=True)
                plain = cast(Result, first.result)
                if own.lasting:
                    self.results.keep(own.key, state, plain)
            asked_for = Correction(content, drawn, params, self.settings.device)
            made = own.correct(plain, asked_for, self.scratch, progress, anew)
            self._tell_others(made, image, who, "corrected")
            return made

        return self.queue.submit(work, model, image.id, who.name)

    def _tell_others(self, made: InferenceFiles, image: Image, who: Annotator, action: str) -> None:
        """Write down who works on an image of the project, and tell of others who lately did."""
        if image.outside:
            return
        made.params["others"] = self.presence.note(image.id, who.name, action)
        made.params["notes"] += made.params["others"]

    def save_label(
        self, image: Image, file: Path, tag: str, content: dict[str, Any], who: Annotator
    ) -> tuple[StoredLabel, list[str]]:
        """Keep an annotator's label as the next version and score it.

        Returns:
            The label, and notes: whose label counts, what other annotators lately did with the image, that no model's names were found.

        Raises:
            MedvitError: as ``LabelStore.save``.
        """
        named, names = content.get("model"), read_label_info(content) or {}
        bundle = self.table_for(image, named if isinstance(named, str) else None, names.values())
        table = bundle.facts.labels if bundle else ()
        about = {
            "model": bundle.name if bundle else None,
            "bundle": f"{bundle.name} {bundle.version}" if bundle else None,
        }
        replaces = truth(content, "replace")
        stored = self.labels.save(image, file, tag, table, content | about | {"replace": replaces}, who)
        note_scores(self, image, stored, bundle)
        words = [*self.labels.told(stored), *self.presence.note(image.id, who.name, "submitted")]
        if replaces and not who.reviews:
            words.insert(
                0, f'"replace" was passed over: it is for reviewers and admins, and {who.shown} is {who.role}.'
            )
        if bundle is None:
            words.insert(0, (
                "The request names no model, and the image and the names do not fit exactly one. Numbers and names were kept as sent, "
                'and no model is trained on this label. Send "model" to have the label checked and used.'
            ))  # fmt: skip
        return stored, words

    def _judge(self, image: Image, model: str, made: InferenceFiles) -> None:
        """Remember an answer, to score labels by, and its quality signal, for what to label next."""
        if image.outside:
            return
        assert isinstance(made.result, Result)
        self.predictions.keep(model, image.id, made.result.array, made.result.bundle.version)
        content = {
            "quality": made.params["quality"], "agreement": made.result.agreement(), "bundle": made.params["bundle"],
            "seconds": made.params["latencies"]["total"] if "latencies" in made.params else None,
        }  # fmt: skip
        self.journal.change(
            "INSERT INTO quality VALUES (?, ?, ?) ON CONFLICT (image, model) DO UPDATE SET content = excluded.content",
            image.id, model, json.dumps(content),
        )  # fmt: skip

    def image_of(self, image: str, session: str) -> Image:
        """The image that a request names, in the project or a session.

        Raises:
            RequestError: it names none. UnknownError: there is no such image.
        """
        if session:
            return self.sessions.image(session)
        if not image:
            raise RequestError("Found neither an image, a file nor a session in the request; name one.")
        return self.images.find(image)

    def info(self) -> dict[str, Any]:
        """What ``GET /info/`` says: MONAI Label's keys, and colours and versions beside them."""
        models = self.models()
        names: list[str] = []
        for bundle in models.values():
            names += [label.name for label in bundle.facts.labels if label.name not in names]
        return {
            "name": "medvit",
            "description": "medvit's bundles for annotation. For research use, not for diagnosis.",
            "version": "2.0",
            "labels": names,
            "models": {name: self._model_info(bundle) for name, bundle in models.items()},
            "trainers": tuning.trainers(self),
            "strategies": {name: {"description": words} for name, words in STRATEGIES.items()},
            "scoring": {},
            "train_stats": self.trainings.statistics(),
            "datastore": self.status(),
        }

    def _model_info(self, bundle: Bundle) -> dict[str, Any]:
        return {
            "type": TASKS[bundle.facts.task],
            "task": bundle.facts.task,
            "labels": {label.name: label.id for label in bundle.facts.labels},
            "label_colors": {label.name: list(label.color) for label in bundle.facts.labels},
            "dimension": bundle.facts.dimensions,
            "description": str(bundle.metadata.get("description", "")),
            "version": bundle.version,
            "config": dict(CONFIG) if bundle.facts.task == "reconstruction" else {},
        }

    def status(self) -> dict[str, Any]:
        """How far the project is."""
        images, labelled = set(self.images.listed()), self.labels.labelled()
        tags: dict[str, int] = {}
        for row in self.journal.rows(
            "SELECT tag, COUNT(DISTINCT image) AS n FROM labels WHERE hidden = 0 GROUP BY tag"
        ):
            tags[row["tag"]] = row["n"]
        return {"total": len(images), "completed": len(images & labelled), "label_tags": tags, "train": []}

    def objects(self) -> dict[str, Any]:
        """Every image with its labels, as ``GET /datastore/?output=all`` lists them."""
        found: dict[str, Any] = {
            name: {"image": {"ext": "".join(image.path.suffixes[-2:]) if image.series is None else ".dcm", "info": self.journal.info(name)}, "labels": {}}
            for name, image in self.images.listed().items()
        }  # fmt: skip
        finals = self.labels.finals()
        for label in [*(other for other in self.labels.all() if other.tag != FINAL), *finals.values()]:
            if label.image in found:
                shown = {k: v for k, v in label.info.items() if k != "sha256"} | {
                    "version": label.version,
                    "ts": int(label.created),
                }
                found[label.image]["labels"][label.tag] = {"ext": "".join(label.file.suffixes[-2:]), "info": shown}
        return {"name": "medvit", "description": "", "images_dir": "", "labels_dir": "labels", "objects": found}

    def unlabelled(self) -> list[Image]:
        """Images without a final label, by id."""
        labelled = self.labels.labelled()
        return [image for name, image in sorted(self.images.listed().items()) if name not in labelled]


def _names_of(bundle: Bundle) -> set[str]:
    """Return a bundle's names and titles of labels, normalised for comparison."""
    return {clean_name(text, text) for label in bundle.facts.labels for text in (label.name, label.title)}
