"""One label's voxels, whichever way labels are held."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medvit.labels import Label

__all__ = ["label_mask"]


def label_mask(array: NDArray[np.generic], place: int, label: Label) -> NDArray[np.bool_]:
    """A label's mask, (i, j, k).

    Args:
        array: (i, j, k) label ids, or (i, j, k, label) masks, which may overlap.
        place: the label's place among those of ``array``, from 0.
        label: the label.
    """
    mask: NDArray[np.bool_] = array == label.id if array.ndim == 3 else array[..., place].astype(bool)
    return mask
