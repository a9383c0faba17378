"""Reading a DICOM series as one regular volume, or refusing it with the reason."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import pydicom
from pydicom.errors import InvalidDicomError

from medvit.errors import ImageError, MedvitError, SelectionError, SourceError
from medvit.io.geometry import flip_lps_ras
from medvit.io.scan import Scan
from medvit.io.stack import check_consistent, stack
from medvit.progress import Progress

__all__ = ["DicomFile", "Series", "choose_series", "group_series", "read_series"]

_CONSULTED = (
    "SOPClassUID SOPInstanceUID StudyInstanceUID SeriesInstanceUID FrameOfReferenceUID PatientID Modality Rows Columns "
    "NumberOfFrames SamplesPerPixel ImagePositionPatient ImageOrientationPatient PixelSpacing SliceThickness "
    "SpacingBetweenSlices RescaleSlope RescaleIntercept"
).split()
"""Attributes that grouping and stacking read."""


@dataclass(frozen=True)
class DicomFile:
    """One entry of a folder or zip: its name within it and how to get its bytes."""

    name: str
    read: Callable[[], bytes]


@dataclass(frozen=True, eq=False)
class Series:
    """The image files that share a SeriesInstanceUID."""

    uid: str
    headers: tuple[pydicom.Dataset, ...]
    files: tuple[DicomFile, ...]

    @property
    def modality(self) -> str:
        """DICOM's Modality of the first slice."""
        return str(self.headers[0].get("Modality", "") or "")

    def describe(self) -> str:
        """A line without patient data: modality, matrix, slices, UID."""
        first = self.headers[0]
        matrix = f"{first.get('Rows', '?')}x{first.get('Columns', '?')}"
        return f"{self.modality or 'unknown modality'}, {len(self.files)} slices of {matrix}, {self.uid or '(no UID)'}"


def group_series(files: Iterable[DicomFile], progress: Progress) -> tuple[list[Series], list[str]]:
    """Headers of all DICOM images among the files, by series, and notes on what was set aside.

    Raises:
        SourceError: a DICOM file is cut off within its header.
    """
    found: dict[str, list[tuple[pydicom.Dataset, DicomFile]]] = defaultdict(list)
    other, objects = 0, 0
    for file in files:
        progress.check()
        header = _read_header(file)
        if header is None:
            other += 1
        elif "Rows" not in header or header.get("Modality") in ("SEG", "RTSTRUCT", "RTDOSE", "SR", "PR", "KO"):
            objects += 1
        else:
            found[str(header.get("SeriesInstanceUID", "") or "")].append((header, file))
    notes = []
    if other:
        notes.append(f"{other} file(s) that are not DICOM were set aside.")
    if objects:
        notes.append(f"{objects} DICOM object(s) that are not images were set aside.")
    series = [Series(uid, tuple(h for h, _ in rows), tuple(f for _, f in rows)) for uid, rows in sorted(found.items())]
    return series, notes


def _read_header(file: DicomFile) -> pydicom.Dataset | None:
    """The header without pixels, or None for a file that is not DICOM."""
    content = file.read()
    if len(content) < 132 or content[128:132] != b"DICM":
        return None
    try:
        header = pydicom.dcmread(BytesIO(content), stop_before_pixels=True)
        for keyword in _CONSULTED:  # pydicom parses a value when it is asked for; ask here, where the file is known
            header.get(keyword)
    except InvalidDicomError:
        return None
    except Exception as error:
        raise SourceError(
            f"Found {file.name}, a DICOM file damaged in its header ({type(error).__name__}); every file of a series "
            "must be complete. Export the series again, or move this file away."
        ) from error
    return header


def choose_series(series: list[Series], wanted: str | None) -> Series:
    """The series asked for by UID or by its number in the listing, or the only one.

    Raises:
        SelectionError: several and none chosen, or no such series; the message lists what is there.
    """
    listing = "\n".join(f"  {n}: {s.describe()}" for n, s in enumerate(series, 1))
    if wanted is not None:
        by_number = {str(n): s for n, s in enumerate(series, 1)}
        match = [s for s in series if s.uid == wanted] or [s for s in [by_number.get(wanted)] if s]
        if not match:
            raise SelectionError(f"Found no series {wanted!r}; give the number or UID of one of these:\n{listing}")
        return match[0]
    if len(series) > 1:
        patients = {str(h.get("PatientID", "")) for s in series for h in s.headers}
        who = f" of {len(patients)} patients" if len(patients) > 1 else ""
        raise SelectionError(
            f"Found {len(series)} series{who} in one source; one is needed. "
            f"Choose with --series NUMBER or --series UID:\n{listing}"
        )
    return series[0]


def read_series(series: Series, progress: Progress) -> Scan:
    """Decode a series into a volume (1, column, row, slice), slices sorted along their normal.

    Stored values become real ones slice by slice (RescaleSlope, RescaleIntercept; PS3.3 C.7.6.16.2.9).

    Raises:
        GeometryError: the slices do not make one regular, straight stack; the message says where.
        ImageError: pixels are not single-valued.
        SourceError: a slice is cut off or cannot be decoded.
    """
    with _sound_headers():
        check_consistent(series.headers)
        affine, order = stack(series.headers)
        headers = [series.headers[n] for n in order]
        rows, columns = int(headers[0].Rows), int(headers[0].Columns)
        blockers = _blockers(headers)
    array = np.empty((columns, rows, len(order)), np.float32)
    for k, n in enumerate(order):
        progress.report("read", k, len(order))
        array[:, :, k] = _pixels(series.files[n], (rows, columns)).T
    return Scan(
        array[None],
        flip_lps_ras(affine),
        "dicom",
        modality=series.modality or None,
        slices=tuple(headers),
        blockers=blockers,
        name="dicom",
    )


@contextmanager
def _sound_headers() -> Iterator[None]:
    """A header value that cannot be read as what its tag promises becomes one of our errors."""
    try:
        yield
    except MedvitError:
        raise
    except Exception as error:
        raise SourceError(
            f"Found a slice with a damaged header value ({type(error).__name__}: {str(error)[:80]}); position, "
            "orientation and spacing must be numbers. Export the series again."
        ) from error


def _pixels(file: DicomFile, shape: tuple[int, int]) -> Any:
    try:
        dataset = pydicom.dcmread(BytesIO(file.read()))
        stored = dataset.pixel_array
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:
        raise SourceError(f"Found {file.name}, whose pixels cannot be read: {_decode_reason(error)}") from error
    if stored.shape != shape:
        raise ImageError(
            f"Found {file.name} with pixels of shape {stored.shape}; {shape} is stated in its header. Export it again."
        )
    with _sound_headers():
        slope = float(dataset.get("RescaleSlope", 1) or 1)
        intercept = float(dataset.get("RescaleIntercept", 0) or 0)
    return (stored.astype(np.float64) * slope + intercept).astype(np.float32)


def _decode_reason(error: Exception) -> str:
    text = (str(error).strip().splitlines() or [""])[0][:200]
    if (
        isinstance(error, (EOFError, zlib.error))
        or "less than expected" in text
        or "less data" in text
        or "length" in text
    ):
        return "the file is cut off. Every slice must be complete: export or copy the series again."
    if isinstance(error, AttributeError):
        return "it holds no pixel data. Every slice must be complete: export or copy the series again."
    return f"{text} Install a decoder for its transfer syntax (pip install pylibjpeg pylibjpeg-openjpeg)."


def _blockers(headers: list[pydicom.Dataset]) -> tuple[str, ...]:
    """Why a SEG or RTSTRUCT could not refer to these images."""
    found = []
    for tag in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"):
        lacking = sum(1 for h in headers if not h.get(tag))
        if lacking:
            found.append(f"{lacking} of {len(headers)} slices have no {tag}")
    frames = {str(h.get("FrameOfReferenceUID", "")) for h in headers}
    if len(frames) > 1:
        found.append(f"the slices state {len(frames)} different FrameOfReferenceUIDs")
    instances = [str(h.get("SOPInstanceUID", "")) for h in headers if h.get("SOPInstanceUID")]
    if len(set(instances)) < len(instances):
        found.append("several slices share one SOPInstanceUID")
    return tuple(found)
