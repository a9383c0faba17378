"""What preflight knows of an image: one small record a plane, read from the header without touching its pixels.

Tens of thousands of files pass through here, so each leaves only the few values that sorting and checking need; the
full header is read again, with the pixels, for the slices that are used.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from typing import Any

import pydicom
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag
from pydicom.uid import UID

from medvit.io.files import DicomFile

__all__ = ["TYPE_2", "DamagedError", "Plane", "read_planes"]

_LAST_WANTED = 0x0028FFFF
"""Reading stops behind the image pixel group; what preflight asks for has all come by then."""

TYPE_2 = (
    "PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime AccessionNumber ReferringPhysicianName "
    "StudyID SeriesNumber InstanceNumber"
).split()
"""Attributes that an image must have, if only empty (PS3.3 C.7): objects derived from it carry them on."""

_TAGS = {
    keyword: BaseTag(tag_for_keyword(keyword) or 0)
    for keyword in (
        *TYPE_2,
        *"ImageType SOPClassUID SOPInstanceUID Modality Manufacturer SliceThickness EchoTime EchoNumbers "
        "SpacingBetweenSlices TriggerTime DiffusionBValue StudyInstanceUID SeriesInstanceUID AcquisitionNumber "
        "ImagePositionPatient ImageOrientationPatient FrameOfReferenceUID TemporalPositionIdentifier SamplesPerPixel "
        "PhotometricInterpretation NumberOfFrames Rows Columns PixelSpacing BitsAllocated PixelRepresentation "
        "RescaleIntercept RescaleSlope LossyImageCompression".split(),
    )
}


class DamagedError(Exception):
    """A DICOM file whose header cannot be read; ``args[0]`` says why."""


@dataclass(frozen=True, slots=True)
class Plane:
    """One image plane as its header states it; absent values are None or empty.

    Attributes:
        file: where it lies.
        frame: its number within a multi-frame file, from 0; None in a file of its own.
        position, orientation: ImagePositionPatient and ImageOrientationPatient, LPS millimetres.
        spacing: PixelSpacing, row then column, millimetres.
        rescale: slope and intercept.
        order: what may tell apart planes at one position: (attribute, value) pairs.
        absent: Type 2 attributes that are not there at all.
        space: bytes behind the header, where the pixels should be.
    """

    file: DicomFile
    frame: int | None
    sop_class: str
    sop_instance: str
    study: str
    series: str
    frame_of_reference: str
    patient: int
    modality: str
    image_type: tuple[str, ...]
    syntax: str
    rows: int
    columns: int
    frames: int
    samples: int
    bits: int
    photometric: str
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing: tuple[float, ...] | None
    thickness: float | None
    between: float | None
    rescale: tuple[float, float]
    lossy: bool
    instance: int
    order: tuple[tuple[str, str], ...]
    absent: tuple[str, ...]
    space: int

    @property
    def placed(self) -> bool:
        """Whether it states where it lies in the patient."""
        return self.position is not None and self.orientation is not None and self.spacing is not None


def _stop(tag: Any, vr: str | None, length: int) -> bool:
    return int.__gt__(tag, _LAST_WANTED)


def read_planes(file: DicomFile) -> list[Plane] | str | None:
    """The planes of a DICOM image; the modality or kind of a DICOM object that is none; None for other files.

    Raises:
        DamagedError: it is DICOM, but its header is cut off or nonsense.
    """
    with file.open() as stream:
        start = stream.read(132)
        bare = start[128:132] != b"DICM"
        if bare and start[:2] not in (b"\x08\x00", b"\x02\x00"):
            return None
        stream.seek(0)
        try:
            header = read_partial(stream, _stop, force=bare)
            values = _Values(header)
            if bare and not values.text("SOPClassUID").startswith("1.2."):
                return None
            return _planes(file, values, max(0, file.size - stream.tell()))
        except DamagedError:
            raise
        except (MemoryError, KeyboardInterrupt):
            raise
        except Exception as error:
            if bare:
                return None
            raise DamagedError(f"{type(error).__name__}: {str(error)[:80]}") from error


class _Values:
    """Quick access to raw header values, without pydicom's full conversion where plain bytes will do."""

    def __init__(self, header: pydicom.Dataset) -> None:
        self.header = header
        self._found = dict(header.items())  # raw elements: asking the dataset itself would convert each one

    def has(self, keyword: str) -> bool:
        return _TAGS[keyword] in self._found

    def raw(self, keyword: str) -> Any:
        return self._found.get(_TAGS[keyword])

    def text(self, keyword: str) -> str:
        return "\\".join(self.texts(keyword))

    def texts(self, keyword: str) -> tuple[str, ...]:
        element = self.raw(keyword)
        if element is None:
            return ()
        value = element.value
        if type(value) is bytes:
            return _words(value)
        if isinstance(value, str) or not isinstance(value, Iterable):
            value = [value]
        words = tuple("" if word is None else str(word).strip(" \0") for word in value)
        return words if any(words) else ()

    def numbers(self, keyword: str, count: int) -> tuple[float, ...] | None:
        words = self.texts(keyword)
        return _floats(words) if len(words) == count else None

    def number(self, keyword: str) -> float | None:
        found = self.numbers(keyword, 1)
        return found[0] if found else None

    def whole(self, keyword: str, default: int) -> int:
        """An unsigned short, or an integer string."""
        element = self.raw(keyword)
        if element is None or element.value in (None, b"", ""):
            return default
        value = element.value
        if isinstance(element, RawDataElement) and isinstance(value, bytes):
            if len(value) == 2 and element.VR not in ("IS", "DS"):
                return int(struct.unpack("<H" if element.is_little_endian else ">H", value)[0])
            value = value.decode("latin-1").strip(" \0").split("\\")[0]
        return int(float(value)) if value not in ("", None) else default


@lru_cache(maxsize=8192)
def _words(value: bytes) -> tuple[str, ...]:
    """The values of a string element; nearly all are the same in slice after slice, and then one tuple serves them."""
    words = tuple(word.strip(" \0") for word in value.decode("latin-1").split("\\"))
    return words if any(words) else ()


@lru_cache(maxsize=4096)
def _floats(words: tuple[str, ...]) -> tuple[float, ...]:
    """Numbers of a value; one tuple for the thousands of planes that share it."""
    return tuple(float(word) for word in words)


_ORDERED_BY = (
    "TemporalPositionIdentifier EchoNumbers EchoTime DiffusionBValue TriggerTime AcquisitionNumber ImageType"
).split()


def _planes(file: DicomFile, values: _Values, space: int) -> list[Plane] | str:
    sop_class, modality = values.text("SOPClassUID"), values.text("Modality")
    rows, columns = values.whole("Rows", 0), values.whole("Columns", 0)
    if not rows or not columns:
        if not sop_class and not modality:
            if "DirectoryRecordSequence" in values.header or _meta(values, 0x00020002).endswith(".1.3.10"):
                return "DICOMDIR"
            raise DamagedError("its header states neither a kind nor an image")
        return modality or UID(sop_class).name
    if modality in ("SEG", "RTSTRUCT", "RTDOSE", "RTPLAN", "SR", "PR", "KO", "REG", "FID"):
        return modality
    plane = Plane(
        file=file,
        frame=None,
        sop_class=sop_class,
        sop_instance=values.text("SOPInstanceUID"),
        study=values.text("StudyInstanceUID"),
        series=values.text("SeriesInstanceUID"),
        frame_of_reference=values.text("FrameOfReferenceUID"),
        patient=hash(values.texts("PatientID")),
        modality=modality,
        image_type=values.texts("ImageType"),
        syntax=_meta(values, 0x00020010) or "1.2.840.10008.1.2",
        rows=rows,
        columns=columns,
        frames=max(1, values.whole("NumberOfFrames", 1)),
        samples=values.whole("SamplesPerPixel", 1),
        bits=values.whole("BitsAllocated", 16),
        photometric=values.text("PhotometricInterpretation"),
        position=values.numbers("ImagePositionPatient", 3),
        orientation=values.numbers("ImageOrientationPatient", 6),
        spacing=values.numbers("PixelSpacing", 2),
        thickness=values.number("SliceThickness"),
        between=values.number("SpacingBetweenSlices"),
        rescale=(_or(values.number("RescaleSlope"), 1.0), _or(values.number("RescaleIntercept"), 0.0)),
        lossy=values.text("LossyImageCompression") == "01",
        instance=values.whole("InstanceNumber", 0),
        order=tuple((k, word) for k in _ORDERED_BY if (word := values.text(k))),
        absent=tuple(k for k in TYPE_2 if not values.has(k)),
        space=space,
    )
    if plane.frames == 1 and not plane.sop_class.endswith(_ENHANCED):
        return [plane]
    from medvit.io.enhanced import frame_planes

    return frame_planes(plane, _whole_header(file))


_ENHANCED = ("1.1.2.1", "1.1.4.1", "1.1.128.1", "1.1.2.2", "1.1.4.4", "1.1.128.2")
"""Enhanced CT, MR and PET and their legacy-converted kinds, which hold geometry by frame even where there is but one."""


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _meta(values: _Values, tag: int) -> str:
    """A UID of the file meta information."""
    meta = getattr(values.header, "file_meta", None)
    element = meta.get_item(tag) if meta is not None and tag in meta else None
    value = "" if element is None else element.value
    return value.decode("latin-1").strip(" \0") if isinstance(value, bytes) else str(value or "")


def _whole_header(file: DicomFile) -> pydicom.Dataset:
    with file.open() as stream:
        return pydicom.dcmread(
            BytesIO(stream.read()) if file.size < 2**20 else stream, stop_before_pixels=True, force=True
        )
