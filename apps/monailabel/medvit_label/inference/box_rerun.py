"""Second run of the model on a box of the image, for regions where the first answer is wrong.

The network sees only the box, at its own resolution, with some voxels around it. Labels inside the box are replaced by
the new answer; all others stay.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

import medvit
from medvit.progress import Progress
from medvit.segmentation import Result
from medvit_label.errors import RequestError
from medvit_label.inference.strokes import place_of

__all__ = ["Box", "read_box", "run_again"]

Box = tuple[slice, ...]

_AROUND = 16
"""Voxels that the network also sees on each side of the box."""

_LEAST = 4
"""Least number of voxels along each side of a box; a smaller box shows no structure."""


def read_box(roi: Any, shape: tuple[int, ...]) -> Box:
    """Read a client's ``roi``: two opposite corners, both included in the box.

    Raises:
        RequestError: the value is not two corners within the image, or the box is too small.
    """
    if not isinstance(roi, list) or len(roi) != 2:
        raise RequestError(
            f"the roi {str(roi)[:60]}",
            "two opposite corners are needed, one index for each axis",
            "Send [[i, j, k], [i, j, k]].",
        )
    first, second = (place_of(corner, shape) for corner in roi)
    box = tuple(slice(min(a, b), max(a, b) + 1) for a, b in zip(first, second, strict=True))
    if any(side.stop - side.start < _LEAST for side in box):
        raise RequestError(
            f"a roi of {' x '.join(str(side.stop - side.start) for side in box)} voxels",
            f"{_LEAST} along each axis are needed",
            "Draw a larger one.",
        )
    return box


def run_again(before: Result, box: Box, device: str, progress: Progress) -> NDArray[np.integer]:
    """Return the labels with those in a box replaced by the answer of a new run.

    Args:
        before: the answer on the whole image.
        box: box to run on.
        device: see ``RunSettings.device``.
        progress: receives the progress and can cancel the run.

    Raises:
        MedvitError: the box cannot be run on; see ``medvit.run``.
    """
    scan = before.scan
    seen = tuple(
        slice(max(0, side.start - _AROUND), min(size, side.stop + _AROUND))
        for side, size in zip(box, scan.array.shape[1:], strict=True)
    )
    affine = scan.affine.copy()
    if not scan.is_picture:
        affine[:3, 3] += affine[:3, :3] @ [side.start for side in seen]
    part = replace(scan, array=np.ascontiguousarray(scan.array[(slice(None), *seen)]), affine=affine, kind="array",
                   slices=(), planes=None, frames=(), original=None, header=None)  # fmt: skip
    # the whole image passed the checks of the model; a part of it may lack, for example, air
    settings = medvit.RunSettings(
        device=device, force=True, roi_subset=tuple(label.name for label in before.requested_labels)
    )
    made = medvit.run(before.bundle, part, settings, progress)
    assert isinstance(made, Result)
    ids = before.array.copy()
    inner = tuple(slice(b.start - s.start, b.stop - s.start) for b, s in zip(box, seen, strict=True))
    ids[box] = made.array[inner]
    return ids
