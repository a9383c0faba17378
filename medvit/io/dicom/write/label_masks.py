"""Masks of single labels, from label ids or from overlapping masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvit.labels import Label

__all__ = ["label_counts", "label_mask", "label_slices"]


def label_mask(array: NDArray[np.generic], place: int, label: Label, flat: bool = False) -> NDArray[np.bool_]:
    """Return a label's mask, (i, j, k).

    Args:
        array: (i, j, k) label ids, or (i, j, k, label) masks, which may overlap.
        place: index of the label among the masks of ``array``, from 0.
        label: the label.
        flat: True for a single slice, (i, j) or (i, j, label).
    """
    ids = array.ndim == (2 if flat else 3)
    mask: NDArray[np.bool_] = array == label.id if ids else array[..., place].astype(bool)
    return mask


def label_counts(stack: NDArray[np.integer[Any]], labels: Sequence[Label]) -> NDArray[np.int64]:
    """Count the voxels of each label on each slice.

    Args:
        stack: label ids, slice by slice, contiguous.
        labels: the labels to count.

    Returns:
        (label, slice).
    """
    ids = [label.id for label in labels]
    most = max(int(stack.max(initial=0)), *ids) + 1
    counts = np.stack([np.bincount(_labelled(plane), minlength=most) for plane in stack], 1)
    return np.asarray(counts[ids])


def label_slices(array: NDArray[Any], labels: Sequence[Label]) -> tuple[NDArray[Any], list[list[int]]]:
    """Return an array slice by slice, contiguous, and the slices on which each label has a voxel.

    Args:
        array: (i, j, k) label ids, or (i, j, k, label) masks, which may overlap.
        labels: the labels.
    """
    stack = np.ascontiguousarray(np.moveaxis(array, 2, 0))
    present = np.count_nonzero(stack, axis=(1, 2)).T if array.ndim == 4 else label_counts(stack, labels)
    return stack, [np.flatnonzero(row).tolist() for row in present]


def _labelled(plane: NDArray[np.integer[Any]]) -> NDArray[np.integer[Any]]:
    """Leave out most of the background, which is much faster in steps of eight bytes."""
    flat = plane.reshape(-1)
    if flat.nbytes % 8:
        return flat
    words = flat.view(np.uint64)
    filled: NDArray[np.integer[Any]] = words[words != 0].view(flat.dtype)
    return filled
