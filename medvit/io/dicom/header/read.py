"""Reading of headers for preflight: one small record for each plane, without reading its pixels.

Preflight reads tens of thousands of files and keeps only the few values that sorting and checking need; the full header
is read again, with the pixels, for the slices that are used.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from io import BytesIO

import pydicom
from pydicom.datadict import dictionary_VR
from pydicom.uid import UID

from medvit.io.dicom.header.attribute_types import TYPE_2
from medvit.io.dicom.header.dataset import read_dataset
from medvit.io.dicom.header.parser import DamagedError, HeaderTooLargeError, read_elements
from medvit.io.dicom.header.patient_identity import IDENTIFYING, hash_of, identity_of_bytes
from medvit.io.dicom.header.plane import PlaneHeader
from medvit.io.dicom.header.values import HeaderValues, tag_of
from medvit.io.files import DicomFile, not_fetched, unreadable
from medvit.io.unread_files import is_placeholder

__all__ = ["DamagedError", "read_planes"]

_ORDERED_BY = tuple(
    "TemporalPositionIdentifier EchoNumbers EchoTime InversionTime DiffusionBValue SequenceName TriggerTime "
    "AcquisitionNumber ConvolutionKernel KVP SliceThickness ImageType".split()
)
"""Attributes that separate images of one series at the same position, the most distinctive first."""

_OF_STUDY = tuple("StudyDate StudyTime AccessionNumber StudyID ReferringPhysicianName".split())
"""Attributes of the study that results copy, apart from its UID."""

_WANTED = {
    tag_of(keyword): dictionary_VR(keyword).encode()
    for keyword in (
        *TYPE_2,
        *_ORDERED_BY,
        *IDENTIFYING,
        *"SpecificCharacterSet SOPClassUID SOPInstanceUID Modality SpacingBetweenSlices StudyInstanceUID SeriesInstanceUID "
        "ImagePositionPatient ImageOrientationPatient FrameOfReferenceUID SamplesPerPixel PhotometricInterpretation "
        "NumberOfFrames Rows Columns PixelSpacing BitsAllocated BitsStored HighBit RescaleIntercept RescaleSlope "
        "RescaleType ModalityLUTSequence ImagesInAcquisition "
        "NumberOfSeriesRelatedInstances InConcatenationTotalNumber LossyImageCompression DirectoryRecordSequence".split(),
    )
}
"""Value representation of each tag that is read."""


def read_planes(file: DicomFile) -> list[PlaneHeader] | str | None:
    """Read the planes of a DICOM image.

    Returns:
        The planes of an image; the modality or kind of another DICOM object; None for files that are not DICOM.

    Raises:
        DamagedError: the file is DICOM, but its header is cut off or invalid.
        UnreadableError: the file cannot be read, or is a placeholder for content that was not fetched.
    """
    try:
        return _read(file)
    except OSError as error:
        raise unreadable(file.name, error) from error


def _read(file: DicomFile) -> list[PlaneHeader] | str | None:
    with file.open() as stream:
        start = stream.read(_SEEN)
        bare = start[128:132] != b"DICM"
        if bare and start[:2] not in (b"\x08\x00", b"\x02\x00"):
            if is_placeholder(start, file.size):
                raise not_fetched(file.name)
            return None
        try:
            values = HeaderValues(read_elements(stream, start, _WANTED))
            if bare and not values.text("SOPClassUID").startswith("1.2."):
                return None
            return _planes(file, values)
        except DamagedError:
            raise
        except (MemoryError, KeyboardInterrupt, OSError):
            raise
        except Exception as error:
            if bare:
                return None
            # the error's own text is left out, since it may quote patient data of the header
            raise DamagedError(_WHY.get(type(error), f"it cannot be taken apart: {type(error).__name__}")) from error


_SEEN = 4096
"""Number of leading bytes that identify a DICOM file and contain most of a header."""

_WHY = {
    EOFError: "the file is cut off",
    RecursionError: "its sequences are nested too deep",
    HeaderTooLargeError: "it unpacks to more than any header",
}


@lru_cache(maxsize=64)
def _absent(there: tuple[bool, ...]) -> tuple[str, ...]:
    return tuple(keyword for keyword, has in zip(TYPE_2, there, strict=True) if not has)


@lru_cache(maxsize=1024)
def _carried(stated: tuple[tuple[str, str], ...]) -> int:
    return hash_of(repr(stated)) if stated else 0


_NO_IMAGE = ("SEG", "RTSTRUCT", "RTDOSE", "RTPLAN", "SR", "PR", "KO", "REG", "FID")
"""Modalities of objects that have rows and columns but are results, not images."""

_SPECTROSCOPY = "1.2.840.10008.5.1.4.1.1.4.2"

_MODALITIES = {
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.4": "MR",
    "1.2.840.10008.5.1.4.1.1.128": "PT",
    "1.2.840.10008.5.1.4.1.1.20": "NM",
}
"""Modality of an image by its SOP class (PS3.4 B.5) or the beginning of it (enhanced images), for headers without a
Modality.
"""


def _modality(sop_class: str, stated: str) -> str:
    return stated or next((m for uid, m in _MODALITIES.items() if f"{sop_class}.".startswith(f"{uid}.")), "")


def _planes(file: DicomFile, values: HeaderValues) -> list[PlaneHeader] | str:
    elements = values.elements
    sop_class = values.text("SOPClassUID")
    modality = _modality(sop_class, values.text("Modality"))
    rows, columns = values.whole("Rows", 0), values.whole("Columns", 0)
    if rows <= 0 or columns <= 0:
        if not sop_class and not modality:
            if values.has("DirectoryRecordSequence") or elements.media.endswith(".1.3.10"):
                return "DICOMDIR"
            raise DamagedError("its header states neither a kind nor an image")
        if _modality(sop_class, "") or UID(sop_class).name.endswith("Image Storage"):
            # a copy that was cut off between two elements of its header
            raise DamagedError("an image without rows or columns")
        return modality or UID(sop_class).name
    if modality in _NO_IMAGE:
        return modality
    if sop_class == _SPECTROSCOPY:
        return "MR spectroscopy"
    plane = PlaneHeader(
        file=file,
        frame=None,
        sop_class=sop_class,
        sop_instance=values.text("SOPInstanceUID"),
        study=values.text("StudyInstanceUID"),
        series=values.text("SeriesInstanceUID"),
        frame_of_reference=values.text("FrameOfReferenceUID"),
        patient=identity_of_bytes(tuple([values.text(k) for k in IDENTIFYING]), values.texts("SpecificCharacterSet")),
        carried=_carried(values.stated(_OF_STUDY)),
        modality=modality,
        image_type=values.texts("ImageType"),
        syntax=elements.syntax or "1.2.840.10008.1.2",
        rows=rows,
        columns=columns,
        frames=max(1, values.whole("NumberOfFrames", 1)),
        samples=values.whole("SamplesPerPixel", 1),
        bits=values.whole("BitsAllocated", 16),
        photometric=values.text("PhotometricInterpretation"),
        position=values.required_numbers("ImagePositionPatient", 3),
        orientation=values.required_numbers("ImageOrientationPatient", 6),
        spacing=values.required_numbers("PixelSpacing", 2),
        thickness=values.number("SliceThickness"),
        between=values.number("SpacingBetweenSlices"),
        rescale=_pair(values.required_numbers("RescaleSlope", 1), values.required_numbers("RescaleIntercept", 1)),
        unit=values.text("RescaleType"),
        unscaled=_unscaled(values) if modality == "CT" else (),
        packing=_packing(values),
        counts=_counts(tuple([values.whole(keyword, 0) for keyword in _COUNTS])),
        lossy=values.text("LossyImageCompression") == "01",
        instance=values.whole("InstanceNumber", 0),
        order=values.stated(_ORDERED_BY),
        absent=_absent(tuple([values.has(k) for k in TYPE_2])),
        space=max(0, file.size - elements.end),
    )
    if plane.frames == 1 and not plane.sop_class.endswith(_ENHANCED):
        return [plane]
    from medvit.io.dicom.header.multiframe import frame_planes

    header, end = _whole_header(file)
    return frame_planes(replace(plane, space=max(0, file.size - end)), header)


_ENHANCED = ("1.1.2.1", "1.1.4.1", "1.1.128.1", "1.1.2.2", "1.1.4.4", "1.1.128.2")
"""Ends of the UIDs of enhanced CT, MR and PET and their legacy-converted kinds, which state geometry by frame even for
a single frame.
"""


def _unscaled(values: HeaderValues) -> tuple[str, ...]:
    """List missing tags, or a slope of 0, without which stored values of a CT are not Hounsfield units (PS3.3 C.8.2.1)."""
    if values.has("ModalityLUTSequence"):
        return ()
    zero = ("RescaleSlope",) if values.required_numbers("RescaleSlope", 1) == (0.0,) else ()
    return tuple(keyword for keyword in _RESCALE if keyword in zero or not values.texts(keyword))


def _packing(values: HeaderValues) -> tuple[int, int]:
    bits = values.whole("BitsStored", 0) or values.whole("BitsAllocated", 16)
    return bits, values.whole("HighBit", bits - 1)


_COUNTS = ("ImagesInAcquisition", "NumberOfSeriesRelatedInstances", "InConcatenationTotalNumber")


@lru_cache(maxsize=1024)
def _counts(stated: tuple[int, ...]) -> tuple[int, int, int]:
    images, series, joined = (max(0, count) for count in stated)
    return images, series, joined


_RESCALE = ("RescaleSlope", "RescaleIntercept")


@lru_cache(maxsize=1024)
def _pair(slope: tuple[float, ...] | None, intercept: tuple[float, ...] | None) -> tuple[float, float]:
    return (slope[0] if slope else 1.0), (intercept[0] if intercept else 0.0)


def _whole_header(file: DicomFile) -> tuple[pydicom.Dataset, int]:
    """Read a whole header; return it with the offset at which it ends."""
    with file.open() as stream:
        seen = BytesIO(stream.read()) if file.size < 2**20 else stream
        return read_dataset(seen, stop_before_pixels=True, force=True), seen.tell()
