"""Copies of DICOM series as NIfTI files, for viewers that open files."""

from __future__ import annotations

import threading
from pathlib import Path

from medvit.atomic_write import replace_file
from medvit.io import write_volume
from medvit_label.images.source import LabelImage

__all__ = ["as_nifti"]

_LOCK = threading.Lock()


def as_nifti(image: LabelImage, cache: Path) -> Path:
    """Write a series as NIfTI on its own grid, as float32 in its own unit; reuse the file until the series changes.

    Raises:
        MedvitError: the series cannot be opened as one volume.
    """
    made, noted = cache / f"{image.id}.nii.gz", cache / f"{image.id}.state"  # the id is a UID, so safe as a file name
    with _LOCK:
        state = image.state()
        if not (made.is_file() and noted.is_file() and noted.read_text() == state):
            scan = image.open()
            cache.mkdir(parents=True, exist_ok=True)
            with replace_file(made) as aside:
                write_volume(aside, scan.array[0], scan.affine)
            with replace_file(noted) as aside:
                aside.write_text(state)
    return made
