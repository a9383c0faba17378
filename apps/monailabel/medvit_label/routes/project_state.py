"""State of a project as JSON, for ``GET /info/``, ``/datastore/`` and ``/stats/``."""

from __future__ import annotations

import time
from collections import Counter
from statistics import mean, median
from typing import Any

from medvit.bundles import Bundle
from medvit_label.inference.radiographs import CONFIG
from medvit_label.labels.next_case import STRATEGIES, rating_of, uncertainty
from medvit_label.labels.store import FINAL, StoredLabel
from medvit_label.models.available import TASKS
from medvit_label.models.versions import INSTALLED
from medvit_label.project import Project

__all__ = ["project_info", "project_objects", "project_statistics", "project_status"]


def project_info(project: Project) -> dict[str, Any]:
    """Return models, trainers, strategies and progress: MONAI Label's keys, with colours and versions added."""
    models = project.models.served()
    names: list[str] = []
    for bundle in models.values():
        names += [label.name for label in bundle.facts.labels if label.name not in names]
    return {
        "name": "medvit",
        "description": "medvit's bundles for annotation. For research use, not for diagnosis.",
        "version": "2.0",
        "labels": names,
        "models": {name: _model_info(bundle) for name, bundle in models.items()},
        "trainers": project.runs.fine_tuning.trainers(),
        "strategies": {name: {"description": words} for name, words in STRATEGIES.items()},
        "scoring": {},
        "train_stats": project.runs.trainings.statistics(),
        "datastore": project_status(project),
    }


def _model_info(bundle: Bundle) -> dict[str, Any]:
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


def project_status(project: Project) -> dict[str, Any]:
    """Return the number of images, of images with a final label, and of images with a label by tag."""
    images, labelled = set(project.images.listed()), project.labels.labelled()
    return {
        "total": len(images),
        "completed": len(images & labelled),
        "label_tags": project.labels.tags(),
        "train": [],
    }


def project_objects(project: Project) -> dict[str, Any]:
    """Return each image with its labels, in the form of ``GET /datastore/?output=all``."""
    found: dict[str, Any] = {
        name: {
            "image": {
                "ext": "".join(image.path.suffixes[-2:]) if image.series is None else ".dcm",
                "info": project.images.info(name),
            },
            "labels": {},
        }
        for name, image in project.images.listed().items()
    }
    others = [label for label in project.labels.all() if label.tag != FINAL]
    for label in [*others, *project.labels.finals().values()]:
        if label.image in found:
            known = {key: value for key, value in label.info.items() if key != "sha256"}
            info = known | {"version": label.version, "ts": int(label.created)}
            found[label.image]["labels"][label.tag] = {"ext": "".join(label.file.suffixes[-2:]), "info": info}
    return {"name": "medvit", "description": "", "images_dir": "", "labels_dir": "labels", "objects": found}


def project_statistics(project: Project) -> dict[str, Any]:
    """Return the numbers for the page: progress, queue, labels with their scores, models and trainings."""
    counting = project.labels.finals()
    rows = [_label_row(label) for label in sorted(counting.values(), key=lambda label: label.created)]
    seconds = [row["seconds"] for row in rows if row["seconds"] is not None]
    jobs = project.runs.inferences.queue.listing()
    return {
        "project": project_status(project) | {"waiting": len(project.labels.unlabelled())},
        "queue": {"states": Counter(job["state"] for job in jobs), "jobs": [j for j in jobs if j["ended"] is None]},
        "next": _most_uncertain(project),
        "labels": rows,
        "several": _labels_of_several(project, counting),
        "seconds_per_case": {"median": median(seconds), "cases": len(seconds)} if seconds else None,
        "agreement": _agreement_by_version(rows),
        "models": {name: _versions(project, name, bundle) for name, bundle in project.models.served().items()},
        "trainings": [
            {key: value for key, value in run.items() if key not in ("details", "request")}
            for run in project.runs.trainings.listing()
        ],
        "now": time.time(),
    }


def _label_row(label: StoredLabel) -> dict[str, Any]:
    found = label.info.get("agreement")
    return {
        "image": label.image, "version": label.version, "created": label.created, "model": label.info.get("model"),
        "agreement": found, "mean_agreement": round(mean(found.values()), 4) if found else None,
        "against": label.info.get("against"), "volumes": label.info.get("volumes", {}),
        "seconds": label.info.get("seconds"), "client": label.annotator, "annotator": label.annotator,
    }  # fmt: skip


def _labels_of_several(project: Project, counting: dict[str, StoredLabel]) -> list[dict[str, Any]]:
    """List the images for which several annotators submitted final labels, with the annotator whose label counts."""
    found = []
    for image, label in counting.items():
        names = list(dict.fromkeys(other.annotator for other in project.labels.versions(image, FINAL)))
        if len(names) > 1:
            found.append({"image": image, "annotators": names, "version": label.version, "counts": label.annotator})
    return found


def _agreement_by_version(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the labels' mean agreement with the answers of each version of a model."""
    found: dict[str, list[float]] = {}
    for row in rows:
        if row["mean_agreement"] is not None:
            found.setdefault(row["against"], []).append(row["mean_agreement"])
    return [{"against": name, "mean": round(mean(v), 4), "labels": len(v)} for name, v in found.items()]


def _most_uncertain(project: Project) -> list[dict[str, Any]]:
    """Return the ten cases without a final label that have the most uncertain answers, with the reasons."""
    waiting = {image.id for image in project.labels.unlabelled()}
    rows = [row for row in project.predictions.qualities() if row.image in waiting]
    ranked = sorted(((*uncertainty(row.content), row) for row in rows), key=lambda item: -item[0])[:10]
    return [
        {"image": row.image, "uncertainty": round(score, 3), "rating": rating_of(row.content), "reason": reason}
        for score, reason, row in ranked
    ]


def _versions(project: Project, name: str, bundle: Bundle) -> dict[str, Any]:
    versions = project.models.versions
    return {
        "version": bundle.version,
        "serving": versions.serving(name),
        "installed": project.models.find(name, INSTALLED).version,
        "versions": versions.listing(name),
    }
