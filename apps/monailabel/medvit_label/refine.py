"""Clicks and scribbles on top of a prediction: the labels near them are found anew by a random walk through the intensities.

Seeds are the strokes and, away from them, the prediction itself; between both, each voxel goes to the label whose seeds a
random walker that avoids steps in intensity reaches first (Grady, "Random walks for image segmentation", 2006). Only a box
around the strokes is worked on, so an answer takes a second or two on a CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medvit.bundles import Bundle
from medvit_label.errors import RequestError

__all__ = ["Strokes", "place_of", "read_strokes", "refined"]

_REACH_MM = 15.0
"""How far from a stroke labels may change."""

_LARGEST = 64
"""Voxels along each side of the box that is worked on, at most."""

_BETA = 130.0
"""How strongly steps in intensity hold the walker back; scikit-image's usual value."""


@dataclass(frozen=True)
class Strokes:
    """What an annotator drew: ids on the image's grid, -1 where nothing was drawn, 0 for "none of the labels"."""

    ids: NDArray[np.int16]


def read_strokes(
    content: dict[str, Any], bundle: Bundle, shape: Sequence[int], drawn: NDArray[np.integer] | None
) -> Strokes:
    """A client's clicks and scribbles.

    Args:
        content: ``{"clicks": {"liver": [[i, j, k], ...], "background": [...]}}``, or MONAI Label's ``foreground`` (with
            ``label``, a name) and ``background`` lists.
        bundle: whose labels they name.
        shape: of the image.
        drawn: scribbles as an array on the image's grid, 0 where nothing was drawn; 255 stands for background.

    Raises:
        RequestError: unknown labels, or points outside of the image.
    """
    ids = np.full(tuple(shape), -1, np.int16)
    if drawn is not None:
        if drawn.shape != ids.shape:
            raise RequestError(
                f"Found scribbles of {drawn.shape} voxels, where the image has {ids.shape}; they must be equal."
            )
        ids[drawn > 0] = np.where(drawn[drawn > 0] == 255, 0, drawn[drawn > 0])
    clicks = dict(content.get("clicks") or {})
    if content.get("foreground"):
        clicks[str(content.get("label"))] = content["foreground"]
    if content.get("background"):
        clicks["background"] = content["background"]
    for name, points in clicks.items():
        number = 0 if name == "background" else bundle.label(name).id
        for point in points if isinstance(points, list) else [points]:
            ids[place_of(point, ids.shape)] = number
    known = {-1, 0, *(label.id for label in bundle.facts.labels)}
    if not set(np.unique(ids).tolist()) <= known:
        raise RequestError(
            f"Found scribbles with ids other than {sorted(known - {-1, 0})} and 255; the bundle knows no others."
        )
    if not (ids >= 0).any():
        raise RequestError("Found no click and no scribble; draw at least one.")
    return Strokes(ids)


def place_of(point: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A client's point as voxel indices.

    Raises:
        RequestError: it is none, or lies outside of the image.
    """
    try:
        place = tuple(round(float(value)) for value in point)
    except (TypeError, ValueError, OverflowError):
        place = ()
    if len(place) != len(shape) or any(not 0 <= p < n for p, n in zip(place, shape, strict=True)):
        raise RequestError(
            f"Found the point {str(point)[:60]}; a point is one voxel index for each axis within {shape}. Correct it."
        )
    return place


def refined(
    image: NDArray[np.float32], before: NDArray[np.integer], strokes: Strokes, spacing_mm: Sequence[float]
) -> NDArray[np.integer]:
    """The labels with the strokes taken in; the same array outside of the box around them.

    Args:
        image: intensities, (i, j, k) or (row, column).
        before: predicted ids on the same grid.
        strokes: what was drawn.
        spacing_mm: voxel sides.
    """
    after = before.copy()
    for box in _boxes(strokes.ids >= 0, spacing_mm):
        after[box] = _walked(image[box], after[box], strokes.ids[box], spacing_mm)
    return after


def _boxes(drawn: NDArray[np.bool_], spacing_mm: Sequence[float]) -> list[tuple[slice, ...]]:
    """A box around each group of strokes that lie near each other."""
    reach = [max(2, round(_REACH_MM / side)) for side in spacing_mm]
    near = ndimage.binary_dilation(drawn, np.ones((3,) * drawn.ndim), iterations=min(reach) // 2 or 1)
    numbered, _ = ndimage.label(near, np.ones((3,) * drawn.ndim))
    boxes = []
    for found in ndimage.find_objects(np.where(drawn, numbered, 0)):
        if found is None:
            continue
        sides = []
        for place, far, size in zip(found, reach, drawn.shape, strict=True):
            room = max(0, (_LARGEST - (place.stop - place.start)) // 2)
            sides.append(slice(max(0, place.start - min(far, room)), min(size, place.stop + min(far, room))))
        boxes.append(tuple(sides))
    return boxes


def _walked(
    image: NDArray[np.float32], before: NDArray[np.integer], drawn: NDArray[np.int16], spacing_mm: Sequence[float]
) -> NDArray[np.integer]:
    from skimage.segmentation import random_walker

    seeds = np.where(drawn >= 0, drawn + 1, 0).astype(np.int32)
    distance = ndimage.distance_transform_edt(drawn < 0, sampling=tuple(spacing_mm))
    edge = np.ones(drawn.shape, bool)
    edge[(slice(1, -1),) * drawn.ndim] = False
    inside = _depth(before, spacing_mm)
    # the prediction holds at the box's rim and deep within each region that is not near a stroke of another label
    kept = (drawn < 0) & (edge | ((distance > _REACH_MM / 2) & (inside > 1.5 * max(spacing_mm))))
    seeds[kept] = before[kept] + 1
    present = np.unique(seeds[seeds > 0])
    if present.size < 2:
        return np.where(seeds > 0, seeds - 1, present[0] - 1).astype(before.dtype)
    low, high = np.percentile(image, (1, 99))
    grey = np.clip((image - low) / max(high - low, 1e-6), 0, 1)
    table = np.zeros(int(present.max()) + 1, np.int32)
    table[present] = np.arange(1, present.size + 1)
    walked = random_walker(grey, table[seeds], beta=_BETA, mode="cg_j", tol=1e-2, spacing=tuple(spacing_mm), copy=True)
    made: NDArray[np.integer] = (present[np.clip(walked, 1, None) - 1] - 1).astype(before.dtype)
    made[drawn >= 0] = drawn[drawn >= 0].astype(before.dtype)
    return made


def _depth(ids: NDArray[np.integer], spacing_mm: Sequence[float]) -> NDArray[np.float64]:
    """Millimetres from each voxel to the next of another id."""
    depth: NDArray[np.float64] = np.zeros(ids.shape)
    for number in np.unique(ids):
        mask = ids == number
        if mask.all():
            return np.full(ids.shape, np.inf)
        depth[mask] = ndimage.distance_transform_edt(mask, sampling=tuple(spacing_mm))[mask]
    return depth
