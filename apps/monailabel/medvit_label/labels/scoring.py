"""Scores of a submitted label: volumes, time spent, and agreement with the model's last answer."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvit.bundles import Bundle
from medvit.inference import label_agreement
from medvit_label.images.source import LabelImage
from medvit_label.labels.activity import ActivityRepository
from medvit_label.labels.label_files import label_map
from medvit_label.labels.predictions import PredictionRepository
from medvit_label.labels.store import FINAL, StoredLabel

__all__ = ["score_label"]

_LONGEST_S = 4 * 3600
"""Upper limit of plausible seconds of work on a case; beyond it, the case was probably left alone."""


def score_label(
    image: LabelImage,
    label: StoredLabel,
    bundle: Bundle,
    predictions: PredictionRepository,
    activity: ActivityRepository,
) -> dict[str, Any]:
    """Compute the scores of a final label, to be stored with it.

    Args:
        image: the labelled image.
        label: the label, just stored.
        bundle: the bundle whose labels it uses.
        predictions: the models' last answers.
        activity: the assignments of cases.

    Returns:
        ``volumes``, ``seconds`` and, if the model has answered on this grid, ``agreement`` and ``against``; empty for
        labels with another tag than "final".
        with another tag than "final".
    """
    if label.tag != FINAL:
        return {}
    ids = label_map(label.file)
    scores: dict[str, Any] = {"volumes": _volumes(ids, label, image, bundle), "seconds": _seconds(label, activity)}
    before = predictions.get(bundle.name, image.id)
    if before is not None and before[0].shape == ids.shape:
        there = set(np.unique(ids).tolist()) | set(np.unique(before[0]).tolist())
        either = [known for known in bundle.facts.labels if known.id in there]
        scores |= {"agreement": label_agreement(ids, before[0], either), "against": f"{bundle.name} {before[1]}"}
    return scores


def _volumes(ids: NDArray[Any], label: StoredLabel, image: LabelImage, bundle: Bundle) -> dict[str, float]:
    """Return the volume of each present label in millilitres; for pictures its number of pixels."""
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


def _seconds(label: StoredLabel, activity: ActivityRepository) -> float | None:
    """Return the seconds that the client states, or those since the case was last assigned; None if unknown or
    implausibly long.
    """
    stated = label.info.get("seconds")
    if isinstance(stated, int | float) and stated >= 0:
        return float(stated)
    assigned = activity.last_assigned(label.image)
    passed = None if assigned is None else label.created - assigned
    return round(passed, 1) if passed is not None and passed <= _LONGEST_S else None
