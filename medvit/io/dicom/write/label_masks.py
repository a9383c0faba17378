"""Masks of single labels, from label ids or from overlapping masks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medvit.labels import Label

__all__ = ["label_mask"]


def label_mask(array: NDArray[np.generic], place: int, label: Label) -> NDArray[np.bool_]:
    """Return a label's mask, (i, j, k).

    Args:
        array: (i, j, k) label ids, or (i, j, k, label) masks, which may overlap.
        place: index of the label among the masks of ``array``, from 0.
        label: the label.
    """
    mask: NDArray[np.bool_] = array == label.id if array.ndim == 3 else array[..., place].astype(bool)
    return mask
