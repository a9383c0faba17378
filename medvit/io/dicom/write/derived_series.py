"""Writer of a derived DICOM series: the same kind of image in the same position, with restored values.

The source's headers are copied except for attributes that are wrong for the new pixels. As PS3.3 C.12.1.1.5 requires,
the equipment module names the software that made the derived images, and the scanner moves to
ContributingEquipmentSequence. That sequence also holds an item for the algorithm, with the bundle's version and the
sha256 of its weights.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from medvit.io.dicom.header import add_empty
from medvit.io.dicom.write.coded_items import coded_item
from medvit.io.dicom.write.derivation import (
    Derivation,
    _refer,
    first_pixel_position,
    upsampled_pixel_measures,
)
from medvit.io.dicom.write.patient_study import copy_patient_study, drop_incomplete
from medvit.io.dicom.write.pixel_encoding import PixelEncoding, has_rescale, plan_storage
from medvit.io.dicom.write.source_images import SourceImages

__all__ = ["derived_name", "has_laterality", "write_derived"]

_NOT_CARRIED = (
    "SmallestImagePixelValue LargestImagePixelValue SmallestPixelValueInSeries LargestPixelValueInSeries "
    "PixelPaddingValue PixelPaddingRangeLimit ModalityLUTSequence IconImageSequence DigitalSignaturesSequence "
    "MACParametersSequence EncryptedAttributesSequence OriginalAttributesSequence DataSetTrailingPadding ImageComments "
    "InstanceCreatorUID SourceImageSequence DerivationImageSequence ReferencedPerformedProcedureStepSequence "
    "ExtendedOffsetTable ExtendedOffsetTableLengths ReferencedImageEvidenceSequence SourceImageEvidenceSequence "
    "ConcatenationUID InConcatenationNumber InConcatenationTotalNumber ConcatenationFrameOffsetNumber "
    "SOPInstanceUIDOfConcatenationSource StationName"
).split()
"""Attributes that are wrong for the new pixels."""

_EQUIPMENT = (
    "Manufacturer InstitutionName InstitutionAddress InstitutionalDepartmentName StationName ManufacturerModelName "
    "DeviceSerialNumber SoftwareVersions"
).split()
"""Attributes of the General Equipment module, which in the source describes the scanner."""

_TYPE_2 = {
    "": "SeriesNumber InstanceNumber PositionReferenceIndicator".split(),
    "CT": "PatientPosition SliceThickness KVP AcquisitionNumber".split(),
    "MR": "PatientPosition SliceThickness ScanOptions RepetitionTime EchoTime EchoTrainLength".split(),
}
"""Attributes written empty where the source lacks them (PS3.5 7.4.3): those of any image, and those of single-frame CT
and MR.
"""


_WITHOUT_SIDES = frozenset(
    "ABDOMEN ABDOMENPELVIS BLADDER BRAIN CHEST CHESTABDOMEN CHESTABDPELVIS COCCYX CSPINE HEAD HEADNECK HEART JAW LIVER LSPINE "
    "LUMBARSPINE MEDIASTINUM NECK NECKCHEST PANCREAS PELVIS PROSTATE SKULL SPINE SSPINE STERNUM TSPINE UTERUS WHOLEBODY".split()
)
"""Unpaired body parts (PS3.16 annex L), for which Laterality, Type 2C in the General Series module, is omitted."""


@dataclass(frozen=True)
class _Series:
    uid: str
    derivation: Derivation
    storage: PixelEncoding
    now: datetime


def has_laterality(dataset: Dataset) -> bool:
    """Return True if the body part is, or may be, paired."""
    return str(dataset.get("BodyPartExamined") or "") not in _WITHOUT_SIDES


def derived_name(k: int) -> str:
    """Return the file name of slice k (from 0): 0001.dcm and so on."""
    return f"{k + 1:04d}.dcm"


def write_derived(
    folder: Path, values: NDArray[np.float32], slices: SourceImages, derivation: Derivation
) -> PixelEncoding:
    """Write the derived series, uncompressed: one file for each slice, or one multi-frame file for a multi-frame
    source.

    Args:
        folder: an existing folder; gets ``0001.dcm`` and so on, in the order of the slices.
        values: (column, row, slice) in the source's unit.
        slices: the source's slices, with all UIDs and one frame of reference; their planes are those of the values.
        derivation: description of the derivation.

    Returns:
        The encoding of the stored values.
    """
    storage = plan_storage(values, slices)
    series = _Series(generate_uid(prefix=None), derivation, storage, datetime.now())
    if slices.frames:
        from medvit.io.dicom.write.derived_multiframe import as_frames

        dataset = _based_on(slices.first, series)
        as_frames(dataset, values, slices, storage, derivation)
        slices.creation.restate(dataset, required=True)
        dataset.save_as(folder / derived_name(0), enforce_file_format=True)
        return storage
    numbers = [str(header.get("InstanceNumber") or "") for header in slices.headers]
    numbered = "" not in numbers and len(set(numbers)) == len(numbers)
    for k in range(values.shape[2]):
        dataset = _based_on(slices.header(k), series)
        if not numbered:
            dataset.InstanceNumber = k + 1
        _scaled(dataset, storage, k)
        if derivation.upsampled:
            _lay(dataset, slices, k, values.shape)
        _refer(dataset, slices, k, derivation)
        dataset.PixelData = storage.stored(values[:, :, k], k).tobytes()
        dataset["PixelData"].VR = "OW"
        slices.creation.restate(dataset, required=False)
        dataset.save_as(folder / derived_name(k), enforce_file_format=True)
    return storage


def _based_on(header: Dataset, series: _Series) -> Dataset:
    """Return a copy of the source's header without pixels, with the attributes of the derived series."""
    dataset = _public(header)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for keyword in _NOT_CARRIED:
        dataset.pop(keyword, None)
    _contribute(dataset, header, series.derivation)
    copy_patient_study(dataset, header)
    drop_incomplete(dataset)
    kind = "" if header.get("PerFrameFunctionalGroupsSequence") else str(header.get("Modality"))
    add_empty(dataset, (*_TYPE_2[""], *(_TYPE_2.get(kind, []) if kind else [])))
    if "DeidentificationMethod" in dataset and not dataset.DeidentificationMethod:
        dataset.DeidentificationMethod = "not stated"  # Type 1C: must not be present and empty
    if kind in ("CT", "MR") and has_laterality(dataset) and "ImageLaterality" not in dataset:
        dataset.Laterality = dataset.get("Laterality") or ""  # headers do not state whether the body part is paired
    author, day, time = series.derivation.author, series.now.strftime("%Y%m%d"), series.now.strftime("%H%M%S")
    dataset.SOPInstanceUID, dataset.SeriesInstanceUID = generate_uid(prefix=None), series.uid
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.SeriesNumber = 9005
    dataset.SeriesDescription = f"{author.bundle}; {author.intended_use}"[:64]
    dataset.InstanceCreationDate = dataset.SeriesDate = dataset.ContentDate = day
    dataset.InstanceCreationTime = dataset.SeriesTime = dataset.ContentTime = time
    dataset.ImageType = _image_type(header)
    dataset.DerivationDescription = series.derivation.words()
    dataset.ImageComments = author.intended_use
    dataset.BurnedInAnnotation = header.get("BurnedInAnnotation") or "NO"  # burned-in text persists
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, _photometric(header, dataset)
    dataset.BitsAllocated, dataset.BitsStored = 16, series.storage.bits
    dataset.HighBit, dataset.PixelRepresentation = series.storage.bits - 1, int(series.storage.signed)
    return dataset


def _public(header: Dataset) -> Dataset:
    """Return a deep copy without private elements, overlays and curves, at any depth."""
    copy = Dataset()
    for element in header:
        group = element.tag.group
        if element.tag.is_private or group in (0x0000, 0x0002) or group & 0xFF00 in (0x5000, 0x6000):
            continue
        if element.VR == "SQ":
            copy.add_new(element.tag, "SQ", Items([_public(item) for item in element.value or []]))
        else:
            copy.add(deepcopy(element))
    return copy


def _image_type(header: Dataset) -> list[str]:
    """Return DERIVED, SECONDARY and the source's further values; multi-frame kinds allow only PRIMARY as the second
    (PS3.3 C.8.16.1.2).
    """
    rest = [str(v) for v in header.get("ImageType") or []][2:]
    if header.get("PerFrameFunctionalGroupsSequence"):
        return ["DERIVED", "PRIMARY", *rest]
    return ["DERIVED", "SECONDARY", *(rest or {"CT": ["AXIAL"], "MR": ["OTHER"]}.get(str(header.get("Modality")), []))]


def _photometric(header: Dataset, dataset: Dataset) -> str:
    """Return MONOCHROME2, or MONOCHROME1 for CT and PET values, which were not inverted on reading."""
    if header.get("PhotometricInterpretation") != "MONOCHROME1":
        return "MONOCHROME2"
    if header.get("Modality") in ("CT", "PT"):
        return "MONOCHROME1"
    for keyword in ("WindowCenter", "WindowWidth", "WindowCenterWidthExplanation", "VOILUTSequence"):
        dataset.pop(keyword, None)  # these refer to the values before inversion
    return "MONOCHROME2"


def _contribute(dataset: Dataset, header: Dataset, derivation: Derivation) -> None:
    """Move the scanner to the contributing equipment and state medvit as the equipment (PS3.3 C.12.1.1.5)."""
    scanner, ours, author = Dataset(), Dataset(), derivation.author
    scanner.PurposeOfReferenceCodeSequence = Items([coded_item("109101", "DCM", "Acquisition Equipment")])
    for keyword in _EQUIPMENT:
        if header.get(keyword):
            setattr(scanner, keyword, header.get(keyword))
        dataset.pop(keyword, None)
    scanner.Manufacturer = header.get("Manufacturer") or "unknown"
    ours.PurposeOfReferenceCodeSequence = Items([coded_item("109102", "DCM", "Processing Equipment")])
    ours.Manufacturer, ours.ManufacturerModelName = "medvit", author.bundle
    ours.SoftwareVersions = author.software
    ours.ContributionDescription = f"{derivation.title}. Weights sha256 {author.weights}. {author.intended_use}."
    earlier = list(dataset.get("ContributingEquipmentSequence") or [])
    dataset.ContributingEquipmentSequence = Items([*earlier, scanner, ours])
    dataset.Manufacturer, dataset.ManufacturerModelName = "medvit", author.bundle
    dataset.SoftwareVersions, dataset.DeviceSerialNumber = author.software, author.weights[:16] or author.software


def _scaled(dataset: Dataset, storage: PixelEncoding, k: int) -> None:
    if dataset.Modality == "CT" and not has_rescale(dataset):
        dataset.pop("RescaleType", None)  # RescaleType has no meaning without slope and intercept
    if not storage.stated:
        return
    slope, intercept = storage.scales[k]
    unit = "HU" if dataset.Modality == "CT" and has_rescale(dataset) else "US"
    if not storage.kept or "RescaleSlope" not in dataset:
        dataset.RescaleSlope, dataset.RescaleIntercept = f"{slope:.10g}"[:16], f"{intercept:.10g}"[:16]
    dataset.RescaleType = dataset.get("RescaleType") or unit


def _lay(dataset: Dataset, slices: SourceImages, k: int, shape: tuple[int, ...]) -> None:
    """Set the size, spacing and first position of the upsampled pixels of slice k; the slice itself is not moved."""
    dataset.Columns, dataset.Rows = shape[:2]
    dataset.PixelSpacing = upsampled_pixel_measures(slices)
    dataset.ImagePositionPatient = first_pixel_position(slices, k)
