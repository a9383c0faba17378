"""Helpers of the readers of SEG and RTSTRUCT: opening of files, conversion of errors, references to images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydicom import Dataset
from pydicom.dataelem import RawDataElement

from medvit.errors import GeometryError, MedvitError, SourceError
from medvit.io.dicom.header import read_dataset
from medvit.io.scan import Scan

__all__ = [
    "check_frame",
    "dicom_errors_as_source_errors",
    "drawn_on",
    "instances",
    "is_dicom",
    "open_object",
    "series_of",
]

_UNDEFINED = 0xFFFFFFFF
"""Length of an element that ends at a delimiter (PS3.5 7.1.1)."""


def is_dicom(path: Path) -> bool:
    """Return True if a file begins with the DICOM preamble (PS3.10), or directly with a data set, as some planning
    systems write it.
    """
    with path.open("rb") as file:
        start = file.read(132)
    return start[128:] == b"DICM" or start[:2] == b"\x08\x00"


def open_object(path: Path, stop_before_pixels: bool = False) -> Dataset:
    """Read the data set of a file.

    Raises:
        SourceError: the file is not DICOM, or is cut off.
    """
    try:
        if not is_dicom(path):
            raise SourceError(
                f"{path.name}, which is neither DICOM nor a label map",
                "a SEG, RTSTRUCT, NIfTI, NRRD or MetaImage file is needed",
                "Unpack an archive first.",
            )
        dataset = read_dataset(path, force=True, stop_before_pixels=stop_before_pixels)
        _require_whole(dataset, path.name)
        return dataset
    except MedvitError:
        raise
    except Exception as error:
        raise SourceError(
            f"{path.name}, a DICOM file damaged in its header ({type(error).__name__})",
            "a complete file is needed",
            "Export it again.",
        ) from error


def _require_whole(dataset: Dataset, name: str) -> None:
    """Refuse a file that ends within its last element, which pydicom would read as a shorter one.

    A truncated sequence of contours would otherwise read as fewer contours.
    """
    last = dataset.get_item(max(dataset.keys())) if len(dataset) else None
    if not isinstance(last, RawDataElement) or not isinstance(last.value, bytes):
        return
    if last.length != _UNDEFINED and len(last.value) < last.length:
        raise SourceError(
            f"{name}, a DICOM file that ends after {len(last.value)} of the {last.length} bytes of its last element",
            "it was cut off",
            "Copy or export it again.",
        )


@contextmanager
def dicom_errors_as_source_errors(name: str, kind: str) -> Iterator[None]:
    """Convert exceptions raised by a damaged or incomplete object to ``SourceError``.

    Args:
        name: name of the file.
        kind: kind of object, with its article: "a SEG".
    """
    try:
        yield
    except (MedvitError, MemoryError):
        raise
    except AttributeError as error:  # raised by pydicom for an absent attribute
        raise SourceError(
            f"{name}, {kind} that is damaged or incomplete (without {error.name or error})",
            "every value of it is needed",
            "Export it again.",
        ) from error
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
        raise SourceError(
            f"{name}, {kind} that is damaged or incomplete ({first})", "every value of it is needed", "Export it again."
        ) from error


def series_of(item: Dataset) -> tuple[str, ...]:
    """Return the UIDs in an item's ReferencedSeriesSequence or RTReferencedSeriesSequence; empty UIDs are left out."""
    named = [
        str(series.get("SeriesInstanceUID") or "")
        for keyword in ("ReferencedSeriesSequence", "RTReferencedSeriesSequence")
        for series in item.get(keyword) or []
    ]
    return tuple(uid for uid in named if uid)


def instances(scan: Scan) -> set[str]:
    """Return the SOPInstanceUIDs of a DICOM image."""
    return {str(header.get("SOPInstanceUID", "")) for header in scan.slices} - {""}


def drawn_on(scan: Scan, series: tuple[str, ...]) -> bool:
    """Return True if a DICOM image belongs to one of the series that labels refer to."""
    return any(str(header.get("SeriesInstanceUID", "")) in series for header in scan.slices[:1])


def check_frame(stated: tuple[str, tuple[str, ...]], scan: Scan | None, force: bool) -> list[str]:
    """Return flags where the labels' frame of reference differs from the reference's.

    Positions in two frames of reference mean different places in the patient (PS3.3 C.7.4.1). A file that nevertheless
    names the reference's own series was written with a wrong UID, and is read with a flag.

    Args:
        stated: the object's FrameOfReferenceUID and the series it refers to.
        scan: the reference.
        force: True to read the object all the same, with a flag.

    Raises:
        GeometryError: frame of reference and series both differ, and ``force`` is False.
    """
    frame, series = stated
    if scan is None or not scan.slices:
        return []
    theirs = {str(h.get("FrameOfReferenceUID", "") or "") for h in scan.slices} - {""}
    if not frame or not theirs or frame in theirs:
        return []
    if drawn_on(scan, series):
        return [
            "The frame of reference is not the reference's, though the file names its series; positions were taken as given."
        ]
    if force:
        return ["Forced: the frame of reference is not the reference's; positions were taken as given."]
    raise GeometryError(
        f"labels in the frame of reference {frame}, where the reference lies in {theirs.pop()}",
        "positions of the two are not comparable",
        "Give the series they were drawn on with {like=...}, or take them as given with {force=True}.",
        option=("force", "like"),
    )
