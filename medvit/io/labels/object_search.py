"""Search for SEG and RTSTRUCT files, and for the series on which such an object was drawn."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from pydicom import Dataset

from medvit.io.dicom.header import read_dataset
from medvit.io.files import files_below
from medvit.io.labels.dicom_objects import is_dicom, open_object, series_of
from medvit.io.labels.rtstruct_reader import referenced_series

__all__ = ["begins_as_dicom", "header_series", "is_label_object", "label_objects", "object_series"]

_KINDS = ("SEG", "RTSTRUCT")


def begins_as_dicom(path: Path) -> bool:
    """Return True if a file begins as a DICOM file; False where it cannot be read."""
    try:
        return is_dicom(path)
    except OSError:  # vanished, or no permission
        return False


def is_label_object(path: Path) -> bool:
    """Return True if a file is a DICOM SEG or RTSTRUCT; False where its header cannot be read."""
    if not begins_as_dicom(path):
        return False
    try:
        tags = read_dataset(path, stop_before_pixels=True, specific_tags=["Modality"])
    except Exception:  # a damaged header may raise any exception
        return False
    return str(tags.get("Modality", "")) in _KINDS


def label_objects(folder: Path, most: int | None = None) -> list[Path]:
    """List the SEG and RTSTRUCT files below a folder, sorted by path.

    Args:
        folder: searched recursively.
        most: largest number of files to examine; None for all.
    """
    return [path for path in islice(sorted(files_below(folder)), most) if is_label_object(path)]


def object_series(path: Path) -> tuple[str, ...]:
    """Return the SeriesInstanceUIDs on which a SEG or RTSTRUCT was drawn.

    Raises:
        SourceError: the file is not DICOM, or is cut off.
    """
    return header_series(open_object(path, stop_before_pixels=True))


def header_series(header: Dataset) -> tuple[str, ...]:
    """Return the SeriesInstanceUIDs on which a SEG or RTSTRUCT was drawn, from its header."""
    return referenced_series(header) if header.get("Modality") == "RTSTRUCT" else series_of(header)
