"""What labels tell of the model and of the work: agreement with its last answer, volumes, time per case; all of it in numbers."""

from __future__ import annotations

import json
import time
from collections import Counter
from statistics import mean, median
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medvit.bundles import Bundle
from medvit.inference import label_agreement
from medvit_label.images.local import Image
from medvit_label.labels.label_files import label_map
from medvit_label.labels.store import FINAL, StoredLabel
from medvit_label.models.versions import INSTALLED

if TYPE_CHECKING:
    from medvit_label.project import Project

__all__ = ["note_scores", "statistics"]

_LONGEST_S = 4 * 3600
"""A case that was given out longer ago was not worked on all the time; its seconds are not known."""


def note_scores(service: Project, image: Image, label: StoredLabel, bundle: Bundle | None) -> None:
    """Note of a submitted label its volumes, the seconds it took, and how far it is from the model's last answer.

    Args:
        service: the project.
        image: the labelled image.
        label: the label, just stored.
        bundle: whose labels it uses; None where no model fits the image.
    """
    if label.tag != FINAL or bundle is None:
        return
    ids = label_map(label.file)
    noted: dict[str, Any] = {"volumes": _volumes(ids, label, image, bundle), "seconds": _seconds(service, label)}
    before = service.predictions.get(bundle.name, image.id)
    if before is not None and before[0].shape == ids.shape:
        there = set(np.unique(ids).tolist()) | set(np.unique(before[0]).tolist())
        either = [known for known in bundle.facts.labels if known.id in there]
        noted |= {"agreement": label_agreement(ids, before[0], either), "against": f"{bundle.name} {before[1]}"}
    service.labels.note(label, noted)


def _volumes(ids: NDArray[Any], label: StoredLabel, image: Image, bundle: Bundle) -> dict[str, float]:
    """Millilitres of each label that is there, or for pictures its pixels."""
    size = 1.0
    if not image.is_picture:
        import nibabel as nib

        size = float(abs(np.linalg.det(nib.load(label.file).affine[:3, :3]))) / 1000
    counts = np.bincount(ids.ravel().astype(np.int64))
    return {
        known.name: round(float(counts[known.id]) * size, 3)
        for known in bundle.facts.labels
        if known.id < len(counts) and counts[known.id]
    }


def _seconds(service: Project, label: StoredLabel) -> float | None:
    """As the client says, else since the case was last given out."""
    said = label.info.get("seconds")
    if isinstance(said, int | float) and said >= 0:
        return float(said)
    rows = service.journal.rows("SELECT MAX(created) AS given FROM assignments WHERE image = ?", label.image)
    given = rows[0]["given"]
    passed = None if given is None else label.created - given
    return round(passed, 1) if passed is not None and passed <= _LONGEST_S else None


def statistics(service: Project) -> dict[str, Any]:
    """The state of the project in one JSON object, as the page shows it."""
    counting = service.labels.finals()
    rows = [_row(label) for label in sorted(counting.values(), key=lambda label: label.created)]
    seconds = [row["seconds"] for row in rows if row["seconds"] is not None]
    jobs = service.queue.listing()
    return {
        "project": service.status() | {"waiting": len(service.unlabelled())},
        "queue": {"states": Counter(job["state"] for job in jobs), "jobs": [j for j in jobs if j["ended"] is None]},
        "next": _most_uncertain(service),
        "labels": rows,
        "several": _several(service, counting),
        "seconds_per_case": {"median": median(seconds), "cases": len(seconds)} if seconds else None,
        "agreement": _by_version(rows),
        "models": {name: _model(service, name, bundle) for name, bundle in service.models().items()},
        "trainings": [
            {k: v for k, v in run.items() if k not in ("details", "request")} for run in service.trainings.listing()
        ],
        "now": time.time(),
    }


def _row(label: StoredLabel) -> dict[str, Any]:
    found = label.info.get("agreement")
    return {
        "image": label.image, "version": label.version, "created": label.created, "model": label.info.get("model"),
        "agreement": found, "mean_agreement": round(mean(found.values()), 4) if found else None,
        "against": label.info.get("against"), "volumes": label.info.get("volumes", {}),
        "seconds": label.info.get("seconds"), "client": label.annotator, "annotator": label.annotator,
    }  # fmt: skip


def _several(service: Project, counting: dict[str, StoredLabel]) -> list[dict[str, Any]]:
    """List images with final labels of several annotators, with the annotator whose label counts."""
    found = []
    for image, label in counting.items():
        names = list(dict.fromkeys(other.annotator for other in service.labels.versions(image, FINAL)))
        if len(names) > 1:
            found.append({"image": image, "annotators": names, "version": label.version, "counts": label.annotator})
    return found


def _by_version(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean agreement with each version of a model whose answers were corrected."""
    found: dict[str, list[float]] = {}
    for row in rows:
        if row["mean_agreement"] is not None:
            found.setdefault(row["against"], []).append(row["mean_agreement"])
    return [{"against": name, "mean": round(mean(v), 4), "labels": len(v)} for name, v in found.items()]


def _most_uncertain(service: Project) -> list[dict[str, Any]]:
    """The cases without a label whose answers look least trustworthy, with the reason."""
    from medvit_label.labels.next_case import rating_of, uncertainty

    waiting = {image.id for image in service.unlabelled()}
    rows = service.journal.rows("SELECT * FROM quality")
    kept = [(json.loads(row["content"]), row["image"]) for row in rows if row["image"] in waiting]
    judged = [(*uncertainty(content), rating_of(content), image) for content, image in kept]
    ordered = sorted(judged, key=lambda item: -item[0])[:10]
    return [
        {"image": image, "uncertainty": round(score, 3), "rating": rating, "reason": reason}
        for score, reason, rating, image in ordered
    ]


def _model(service: Project, name: str, bundle: Bundle) -> dict[str, Any]:
    return {
        "version": bundle.version,
        "serving": service.versions.serving(name),
        "installed": service.model(name, INSTALLED).version,
        "versions": service.versions.listing(name),
    }
