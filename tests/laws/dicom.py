"""DICOM objects as lines that stay the same from run to run: UIDs become numbers, dates and times are left out."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import UID

from tests.laws.products import Lines, Product, Voxels

_LEFT_OUT = {"PixelData", "ContourData"}
"""Elements that are compared separately: pixels as arrays, contours rounded."""

_DATES = {"DA", "TM", "DT"}
_NUMBERS = {"DS", "FD", "FL"}


class UidNumbers:
    """Numbers in place of UIDs: first those of the given files, then others in the order of their occurrence."""

    def __init__(self, given: Iterable[Dataset] = ()) -> None:
        self._names: dict[str, str] = {}
        for dataset in given:
            for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID"):
                uid = str(dataset.get(keyword, ""))
                if uid:
                    self._names.setdefault(uid, f"given {len(self._names) + 1}")
        self._given = len(self._names)

    def __getitem__(self, uid: str) -> str:
        if UID(uid).name != uid:  # the standard's own: a class, a syntax
            return uid
        return self._names.setdefault(uid, f"made {len(self._names) - self._given + 1}")


def dataset_lines(dataset: Dataset, uids: UidNumbers) -> list[str]:
    """Yield one line for each element, preceded by the path of its sequences."""
    lines: list[str] = []
    _add_lines(dataset, "", uids, lines)
    return lines


def _add_lines(dataset: Dataset, path: str, uids: UidNumbers, lines: list[str]) -> None:
    for element in dataset:
        name = path + (element.keyword or f"{element.tag:08X}")
        if element.keyword in _LEFT_OUT:
            continue
        if element.VR == "SQ":
            lines.append(f"{name}: {len(element.value)} items")
            for number, item in enumerate(element.value):
                _add_lines(item, f"{name}[{number}].", uids, lines)
        else:
            lines.append(f"{name} {element.VR}: {_text(element, uids)}")


def _text(element: Any, uids: UidNumbers) -> str:
    values = element.value
    if element.VR in _DATES:
        return "set" if values else "empty"
    if isinstance(values, bytes):
        return f"{len(values)} bytes {hashlib.sha256(values).hexdigest()[:16]}"
    several = not isinstance(values, str | int | float) and values is not None and hasattr(values, "__iter__")
    parts = list(values) if several and element.VR != "PN" else [values]
    if element.VR == "UI":
        parts = [uids[str(part)] if part else "" for part in parts]
    elif element.VR in _NUMBERS:
        parts = [f"{float(part):.7g}" if part is not None else "" for part in parts]
    text = "\\".join("" if part is None else str(part) for part in parts).replace("\n", " ")
    return text if element.VR in ("UI", *_NUMBERS) else re.sub(r"\b\d+\.\d+\.\d+(?:[\w.+-]*\w)?", "VERSION", text)


def contour_lines(dataset: Dataset) -> Lines:
    """Yield one line for each contour of an RTSTRUCT: number of the ROI, kind, corners in hundredths of a millimetre."""
    lines = []
    for roi in dataset.ROIContourSequence:
        for contour in roi.get("ContourSequence", ()):
            corners = np.round(np.array(contour.ContourData, dtype=np.float64) * 100).astype(int).reshape(-1, 3)
            points = " ".join(",".join(map(str, corner)) for corner in corners)
            lines.append(f"{roi.ReferencedROINumber} {contour.ContourGeometricType} {len(corners)}: {points}")
    return Lines(tuple(lines))


def object_products(path: Path, name: str, uids: UidNumbers) -> dict[str, Product]:
    """Return the products of one DICOM file: its elements, its pixels or its contours."""
    dataset = pydicom.dcmread(path)
    made: dict[str, Product] = {f"{name} elements": Lines(tuple(dataset_lines(dataset, uids)))}
    if "PixelData" in dataset:
        made[f"{name} pixels"] = Voxels.of(dataset.pixel_array)
    if "ROIContourSequence" in dataset:
        made[f"{name} contours"] = contour_lines(dataset)
    return made


def series_products(folder: Path, name: str, uids: UidNumbers, rounded: bool = False) -> dict[str, Product]:
    """Return the products of a written series: all elements of its first file, a hash of each file's elements and pixels.

    ``rounded`` says that the pixels were rounded from floating point.
    """
    hashes, first = [], Lines(())
    for number, path in enumerate(sorted(folder.glob("*.dcm"))):
        dataset = pydicom.dcmread(path)
        elements = Lines(tuple(dataset_lines(dataset, uids)))
        first = first if number else elements
        hashes.append(f"{path.name} elements {elements.sha256[:16]} pixels {_pixel_hash(dataset)}")
    return {f"{name} first file": first, f"{name} files": Lines(tuple(hashes), rounded)}


def _pixel_hash(dataset: Dataset) -> str:
    pixels = np.ascontiguousarray(dataset.pixel_array)
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.astype("<i4").tobytes()).hexdigest()[:16]


def read_headers(paths: Sequence[Path]) -> list[Dataset]:
    """Read the headers of DICOM files in the order of their names."""
    return [pydicom.dcmread(path, stop_before_pixels=True) for path in sorted(paths)]
