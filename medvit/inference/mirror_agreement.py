"""Where a network contradicts itself: the labels of an image and those of its mirror image, compared.

A patient's right and left are much alike, so a network should say of the mirrored image what it says of the image, with
right and left exchanged. Where it does not, one of the two answers is wrong, and a person should look. It costs a second run.
Agreement of both is no proof: both can be wrong alike.
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

__all__ = ["exchanged_sides", "label_agreement", "mirrored_labels"]


def mirrored_labels(model: LoadedBundle, scan: Scan, progress: Progress) -> NDArray[np.int16]:
    """What the model says of the scan's mirror image, turned back and with right and left exchanged.

    Returns:
        Ids on the scan's grid, (i, j, k), or (row, column) of a picture.
    """
    axis = 1 if scan.is_picture else _sideways(scan)
    mirrored = replace(scan, array=np.ascontiguousarray(np.flip(scan.array, axis + 1)))
    made = np.asarray(apply(_alone(model), {"image": mirrored.meta_tensor()}, progress).output)[0]
    ids = np.rint(np.flip(made, axis)).astype(np.int16)
    return exchanged_sides(ids, model.bundle.facts.labels)


def _alone(model: LoadedBundle) -> LoadedBundle:
    """The model that looks at no mirror images itself (``FlipAveraging``), else both of its answers would be one."""
    if getattr(model.inferer, "mirrored", None) is None:
        return model
    return replace(model, inferer=with_options(model.inferer, mirrored=None))


def _sideways(scan: Scan) -> int:
    """The array's axis that runs closest to right and left."""
    import nibabel as nib

    return int(np.flatnonzero(nib.io_orientation(scan.affine)[:, 0] == 0)[0])


def exchanged_sides(ids: NDArray[np.int16], labels: Sequence[Label]) -> NDArray[np.int16]:
    """Each right organ's id for its left one's, and the other way round; organs without sides keep theirs."""
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
    """Dice of each label between both answers; 1 where neither has it."""
    found = {}
    for label in requested_labels:
        a, b = labels == label.id, mirrored == label.id
        total = int(a.sum()) + int(b.sum())
        found[label.name] = round(2 * int((a & b).sum()) / total, 4) if total else 1.0
    return found
