"""Submission of an annotator's label: choice of the bundle, storing, scoring, and notes for the annotator."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvit_label.annotators import Annotator
from medvit_label.images.source import LabelImage
from medvit_label.labels.activity import ActivityRepository
from medvit_label.labels.label_info import read_label_info
from medvit_label.labels.predictions import PredictionRepository
from medvit_label.labels.scoring import score_label
from medvit_label.labels.store import LabelRepository, StoredLabel
from medvit_label.models.available import Models
from medvit_label.request_params import read_flag

__all__ = ["Submission", "submit_label"]

_NO_MODEL = (
    "The request names no model, and the image and the names do not fit exactly one. Numbers and names were kept as sent, "
    'and no model is trained on this label. Send "model" to have the label checked and used.'
)


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A label that an annotator submits.

    Attributes:
        image: the labelled image.
        file: the label map, in any format that ``write_label`` reads.
        tag: "final", "original" or another word.
        content: the request's ``params``.
        annotator: annotator who submits it.
    """

    image: LabelImage
    file: Path
    tag: str
    content: dict[str, Any]
    annotator: Annotator


def submit_label(
    given: Submission,
    *,
    labels: LabelRepository,
    models: Models,
    predictions: PredictionRepository,
    activity: ActivityRepository,
) -> tuple[StoredLabel, list[str]]:
    """Store an annotator's label as the next version and score it.

    Returns:
        The label, and notes: the label that counts, other annotators' recent work on the image, and the lack of a
            fitting bundle.

    Raises:
        UnknownError: the request names a model that is not offered. MedvitError: see ``LabelRepository.save``.
    """
    content, who = given.content, given.annotator
    named, names = content.get("model"), read_label_info(content) or {}
    bundle = models.for_label(given.image, named if isinstance(named, str) else None, names.values())
    table = bundle.facts.labels if bundle else ()
    about = {
        "model": bundle.name if bundle else None,
        "bundle": f"{bundle.name} {bundle.version}" if bundle else None,
    }
    replaces = read_flag(content, "replace")
    stored = labels.save(given.image, given.file, given.tag, table, content | about | {"replace": replaces}, who)
    scores = score_label(given.image, stored, bundle, predictions, activity) if bundle else {}
    if scores:
        labels.note(stored, scores)
    notes = [*labels.annotators_note(stored), *activity.note(given.image.id, who.name, "submitted")]
    if replaces and not who.reviews:
        notes.insert(
            0, f'"replace" was passed over: it is for reviewers and admins, and {who.display_name} is {who.role}.'
        )
    return stored, notes if bundle else [_NO_MODEL, *notes]
