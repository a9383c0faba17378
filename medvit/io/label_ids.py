"""Detection and rounding of label ids that a file stores with rounding errors."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["TOLERANCE", "storage_step", "whole_numbers"]

TOLERANCE = 0.01
"""Distance from a whole number within which a stored id counts as that number."""

_WIDEST = 0.25
"""Largest tolerance; with a larger one, one stored value could stand for two ids."""


def storage_step(header: Any) -> float:
    """Return the distance between neighbouring values of a NIfTI that stores scaled integers.

    Args:
        header: a nibabel header; other objects are allowed.

    Returns:
        The absolute slope; 0 for other headers and for types that are not integer.

    Examples:
        >>> import nibabel
        >>> import numpy as np
        >>> from medvit.io import storage_step
        >>> header = nibabel.Nifti1Header()
        >>> header.set_data_dtype(np.int16)
        >>> header.set_slope_inter(0.5, 0)
        >>> storage_step(header)
        0.5
    """
    if not hasattr(header, "get_slope_inter") or header.get_data_dtype().kind not in "iu":
        return 0.0
    slope = header.get_slope_inter()[0]
    return abs(float(slope)) if slope is not None else 0.0


def whole_numbers(values: NDArray[Any], step: float = 0.0) -> tuple[NDArray[Any], str | None] | None:
    """Round label ids that were saved as floating-point values.

    A program that saves floating-point labels under an integer header stores them scaled: 1 comes back as 0.99998. The
    tolerance is ``TOLERANCE``, or half of the file's own step where that is larger, at most a quarter.

    Args:
        values: ids as read, any shape and dtype.
        step: distance between neighbouring values of the file, see ``storage_step``.

    Returns:
        The ids, and a note where they were rounded; None if any value is not finite or not near a whole number.

    Examples:
        >>> import numpy as np
        >>> from medvit.io import whole_numbers
        >>> ids, note = whole_numbers(np.array([0.0, 0.999]))
        >>> ids
        array([0., 1.])
        >>> note
        'The label ids are stored up to 0.001 away from whole numbers ...'
        >>> whole_numbers(np.array([0.0, 0.4])) is None
        True
    """
    if values.dtype.kind in "iub":
        return values, None
    whole = np.rint(values)
    off = float(np.abs(values - whole).max(initial=0.0))
    tolerance = max(TOLERANCE, min(0.51 * step, _WIDEST))
    if not off <= tolerance:  # written so that NaN fails too
        return None
    if off == 0:
        return whole, None
    note = (
        f"The label ids are stored up to {off:.2g} away from whole numbers (saved through floats); they were rounded, "
        f"within a tolerance of {tolerance:.2g}."
    )
    return whole + 0.0, note  # no negative zero
