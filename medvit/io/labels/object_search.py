"""Finding SEG and RTSTRUCT objects among files, and the series that an object was drawn on."""

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
    """Tell whether a file begins as a DICOM file; False where it cannot be read."""
    try:
        return is_dicom(path)
    except OSError:  # it vanished, or may not be read
        return False


def is_label_object(path: Path) -> bool:
    """Tell whether a file is a DICOM SEG or RTSTRUCT; False where its header cannot be read."""
    if not begins_as_dicom(path):
        return False
    try:
        tags = read_dataset(path, stop_before_pixels=True, specific_tags=["Modality"])
    except Exception:  # whatever a damaged header raises
        return False
    return str(tags.get("Modality", "")) in _KINDS


def label_objects(folder: Path, most: int | None = None) -> list[Path]:
    """List the SEG and RTSTRUCT files below a folder, sorted by path.

    Args:
        folder: walked recursively.
        most: files to look at; None for all.
    """
    return [path for path in islice(sorted(files_below(folder)), most) if is_label_object(path)]


def object_series(path: Path) -> tuple[str, ...]:
    """Return the SeriesInstanceUIDs that a SEG or RTSTRUCT was drawn on.

    Raises:
        SourceError: not DICOM, or cut off.
    """
    return header_series(open_object(path, stop_before_pixels=True))


def header_series(header: Dataset) -> tuple[str, ...]:
    """Return the same from the object's header."""
    return referenced_series(header) if header.get("Modality") == "RTSTRUCT" else series_of(header)
