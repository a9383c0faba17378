"""Agreement between the labels of an image and those of its mirror image, a check for errors of the network.

A patient's right and left side are nearly symmetric, so a network should label the mirrored image like the image, with
right and left exchanged. Where it does not, one of the two answers is wrong and a person should check it. This costs a
second run. Agreement does not prove correctness, since both answers can have the same error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from medvit.inference.loaded_bundle import LoadedBundle, apply, with_options
from medvit.io import Scan
from medvit.labels import Label
from medvit.progress import Progress
from medvit.reports import dice

__all__ = ["exchanged_sides", "label_agreement", "mirrored_labels"]


def mirrored_labels(model: LoadedBundle, scan: Scan, progress: Progress) -> NDArray[np.int16]:
    """Label the scan's mirror image; flip the labels back and exchange right and left.

    Args:
        model: the loaded bundle.
        scan: the scan.
        progress: receives the stages of the run.

    Returns:
        Ids on the scan's grid, (i, j, k), or (row, column) of a picture.

    Examples:
        >>> from medvit.inference import load_model, mirrored_labels
        >>> ids = mirrored_labels(load_model("headneck_ct_swin_unetr"), scan, progress)  # doctest: +SKIP
    """
    axis = 1 if scan.is_picture else _sideways(scan)
    mirrored = replace(scan, array=np.ascontiguousarray(np.flip(scan.array, axis + 1)))
    made = np.asarray(apply(_alone(model), {"image": mirrored.grid_image()}, progress).output)[0]
    ids = np.rint(np.flip(made, axis)).astype(np.int16)
    return exchanged_sides(ids, model.bundle.facts.labels)


def _alone(model: LoadedBundle) -> LoadedBundle:
    """Turn off the inferer's own mirroring (``FlipAveraging``), which would make both answers equal."""
    if getattr(model.inferer, "mirrored", None) is None:
        return model
    return replace(model, inferer=with_options(model.inferer, mirrored=None))


def _sideways(scan: Scan) -> int:
    """Return the array axis closest to the right-left direction."""
    import nibabel as nib

    return int(np.flatnonzero(nib.io_orientation(scan.affine)[:, 0] == 0)[0])


def exchanged_sides(ids: NDArray[np.int16], labels: Sequence[Label]) -> NDArray[np.int16]:
    """Exchange the ids of right and left organs; organs without a side keep their id."""
    sides = {(label.type.value, label.laterality.meaning): label.id for label in labels if label.laterality is not None}
    table = np.arange(max([int(ids.max()), *(label.id for label in labels)]) + 1, dtype=np.int16)
    for (kind, side), number in sides.items():
        other = sides.get((kind, {"Right": "Left", "Left": "Right"}.get(side, "")))
        if other is not None:
            table[number] = other
    return table[ids]


def label_agreement(
    labels: NDArray[np.integer], mirrored: NDArray[np.integer], requested_labels: Sequence[Label]
) -> dict[str, float]:
    """Compute the Dice of each label between the labels of an image and those of its mirror image.

    Args:
        labels: (i, j, k) label ids.
        mirrored: (i, j, k) label ids from ``mirrored_labels``.
        requested_labels: labels to compare.

    Returns:
        Dice by label name, 0..1, rounded to four digits; 1 where both answers lack the label.

    Examples:
        >>> import numpy as np
        >>> from medvit.inference import label_agreement
        >>> label_agreement(np.array([1, 1, 0, 0]), np.array([1, 0, 0, 0]), [])
        {}
    """
    return {label.name: round(dice(labels == label.id, mirrored == label.id), 4) for label in requested_labels}
