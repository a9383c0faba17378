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

from medvit.errors import GeometryError, ImageError, MedvitError, SelectionError, SourceError
from medvit.io.geometry import Affine, flip_lps_ras
from medvit.io.scan import Scan
from medvit.progress import Progress

__all__ = ["DicomFile", "Series", "choose_series", "group_series", "read_series"]

_OFF_GRID = 0.05
"""How far a slice may lie from its place on the regular grid, as a share of the slice spacing."""

_TILT_DEGREES = 0.5
"""Largest angle between the stacking direction and the slice normal; scanners' gantry tilts start at about 1."""


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
        _check_consistent(series)
        affine, order = _stack(series.headers)
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


def _check_consistent(series: Series) -> None:
    first = series.headers[0]
    if len({str(h.get("PatientID", "")) for h in series.headers}) > 1:
        raise SelectionError(
            "Found several patients under one SeriesInstanceUID; a series belongs to one. Separate the files first."
        )
    if any(int(h.get("NumberOfFrames", 1) or 1) > 1 for h in series.headers):
        raise SourceError(
            "Found a multi-frame DICOM file; single-frame slices are needed so far. "
            "Convert it to NIfTI (for example with dcm2niix) and run again."
        )
    if int(first.get("SamplesPerPixel", 1) or 1) != 1:
        raise ImageError(
            "Found colour pixels (a photograph or screen capture); grey values are needed. Choose another series."
        )
    for tag in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        lacking = sum(1 for h in series.headers if not h.get(tag))
        if lacking:
            raise GeometryError(
                f"Found {lacking} of {len(series.headers)} slices without {tag}; every slice needs its place in the "
                "patient. Choose a cross-sectional series, or convert it to NIfTI with a known geometry."
            )
    for tag, tolerance in (("ImageOrientationPatient", 1e-3), ("PixelSpacing", 1e-3)):
        values = np.array([[float(v) for v in h.get(tag)] for h in series.headers])
        if np.ptp(values, axis=0).max() > tolerance:
            raise GeometryError(
                f"Found slices that differ in {tag}; one volume needs it equal. "
                "The series mixes acquisitions (a localizer, say): move the odd slices away."
            )
    sizes = {(int(h.Rows), int(h.Columns)) for h in series.headers}
    if len(sizes) > 1:
        shown = ", ".join(f"{r}x{c}" for r, c in sorted(sizes))
        raise GeometryError(
            f"Found slices of different sizes ({shown}); one volume needs one. Move the odd slices away."
        )


def _stack(headers: tuple[pydicom.Dataset, ...]) -> tuple[Affine, list[int]]:
    """Affine (LPS) of (column, row, slice) and the order of the files along the slice normal."""
    cosines = np.array([float(v) for v in headers[0].ImageOrientationPatient])
    along_row, along_column = cosines[:3], cosines[3:]
    normal = np.cross(along_row, along_column)
    if abs(np.linalg.norm(normal) - 1) > 0.01:
        raise GeometryError(
            "Found row and column directions that are not perpendicular unit vectors (ImageOrientationPatient); "
            "they must be. Repair the tag or convert the series to NIfTI."
        )
    positions = np.array([[float(v) for v in h.ImagePositionPatient] for h in headers])
    if not np.isfinite(positions).all():
        raise GeometryError(
            "Found a slice position that is not a finite number; each must be. Export the series again."
        )
    distance = positions @ normal
    order = [int(n) for n in np.argsort(distance, kind="stable")]
    positions, distance = positions[order], distance[order]
    step = _step(headers[0], positions, distance, normal)
    down, across = (float(v) for v in headers[0].PixelSpacing)
    affine = np.eye(4)
    affine[:3, 0] = along_row * across
    affine[:3, 1] = along_column * down
    affine[:3, 2] = step
    affine[:3, 3] = positions[0]
    return affine, order


def _step(first: pydicom.Dataset, positions: Any, distance: Any, normal: Any) -> Any:
    """The vector from one slice to the next; refuses a stack that is not regular and straight."""
    count = len(distance)
    if count == 1:
        thickness = float(first.get("SpacingBetweenSlices") or first.get("SliceThickness") or 0)
        if thickness <= 0:
            raise GeometryError("Found a single slice without SliceThickness; a volume needs one. Add it or use NIfTI.")
        return normal * thickness
    gaps = np.diff(distance)
    typical = float(np.median(gaps))
    if gaps.min() < 1e-3 or typical < 1e-3:
        where = float(distance[int(gaps.argmin())])
        raise GeometryError(
            f"Found two slices at the same position ({where:.2f} mm along the normal); each position needs one slice. "
            "Two acquisitions or a copied file share the series: move the duplicates away."
        )
    wide = int(gaps.argmax())
    missing = round(gaps[wide] / typical) - 1
    if missing and abs(gaps[wide] / typical - missing - 1) < _OFF_GRID:
        raise GeometryError(
            f"Found a gap of {gaps[wide]:.2f} mm between the slices at {distance[wide]:.2f} and {distance[wide + 1]:.2f} mm "
            f"where the spacing is {typical:.2f} mm: {missing} slice(s) missing. Export the complete series again."
        )
    regular = distance[0] + np.arange(count) * (distance[-1] - distance[0]) / (count - 1)
    off = float(np.abs(distance - regular).max())
    if off > _OFF_GRID * typical:
        raise GeometryError(
            f"Found unevenly spaced slices (gaps from {gaps.min():.2f} to {gaps.max():.2f} mm, up to {off:.2f} mm off a "
            "regular grid); even spacing is needed. Choose a reconstruction with even spacing."
        )
    step = (positions[-1] - positions[0]) / (count - 1)
    tilt = np.degrees(np.arccos(np.clip(step @ normal / np.linalg.norm(step), -1, 1)))
    if tilt > _TILT_DEGREES:
        raise GeometryError(
            f"Found a gantry tilt of {tilt:.1f} degrees; slices must be stacked straight along their normal. "
            "Choose a series reconstructed without tilt."
        )
    sideways = positions - (positions[0] + np.arange(count)[:, None] * step)
    if float(np.linalg.norm(sideways, axis=1).max()) > max(0.5, typical) * 0.2:
        raise GeometryError(
            "Found slices shifted sideways against each other; one straight stack is needed. Choose another series."
        )
    return step


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
