"""Overlap of two label masks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["dice"]


def dice(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """Compute the Dice overlap of two masks; 1 if both are empty.

    Args:
        found: a mask.
        truth: a mask of the same shape.

    Returns:
        The Dice coefficient, 0..1.

    Examples:
        >>> import numpy as np
        >>> from medvit.reports import dice
        >>> dice(np.array([True, True, False]), np.array([True, False, False])) == 2 / 3
        True
    """
    total = int(found.sum()) + int(truth.sum())
    return 2 * int((found & truth).sum()) / total if total else 1.0
