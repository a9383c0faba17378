"""Writer of DICOM RT Structure Sets (PS3.3 A.19): closed planar contours on the original slices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, RTStructureSetStorage, generate_uid

from medvit.io.dicom.write.algorithm_info import AlgorithmInfo
from medvit.io.dicom.write.coded_items import coded_item
from medvit.io.dicom.write.element_bytes import ElementBytes
from medvit.io.dicom.write.label_masks import label_mask, label_slices
from medvit.io.dicom.write.patient_study import copy_patient_study, ensure_utf8
from medvit.io.dicom.write.source_images import SourceImages
from medvit.io.polygon_masks import outline_mask
from medvit.labels import Label

__all__ = ["write_rtstruct"]


_Contour = tuple[int, int, str]
"""Slice, number of points and ContourData of a contour."""

_ROI_CONTOURS, _COLOR, _CONTOURS, _REFERENCED_ROI = 0x30060039, 0x3006002A, 0x30060040, 0x30060084
_SOP_CLASS, _INSTANCE, _FRAME_NUMBER = 0x00081150, 0x00081155, 0x00081160
_CONTOUR_IMAGES, _GEOMETRIC_TYPE, _POINT_COUNT = 0x30060016, 0x30060042, 0x30060046
_CONTOUR_NUMBER, _CONTOUR_DATA = 0x30060048, 0x30060050

_EXPLICIT_LIMIT = 65534
"""Longest decimal string, in bytes, whose length explicit VR can state (PS3.5 7.1.2); a longer contour needs implicit
VR.
"""


def write_rtstruct(
    path: Path, array: np.ndarray, slices: SourceImages, labels: Sequence[Label], author: AlgorithmInfo
) -> None:
    """Write one ROI for each label, with one contour for each outline on each slice.

    Args:
        path: the file to write.
        array: (column, row, slice) label ids, or (column, row, slice, label) masks, which may overlap.
        slices: the source's slices, in the order of the array's.
        labels: the labels that occur in ``array``.
        author: the algorithm that made the labels.
    """
    first = slices.normalised_headers(1)[0]
    dataset = _frame(first, author)
    dataset.ReferencedFrameOfReferenceSequence = [_references(slices)]
    dataset.StructureSetROISequence = []
    dataset.RTROIObservationsSequence = []
    for number, label in enumerate(labels, 1):
        dataset.StructureSetROISequence.append(_roi(number, label, first.FrameOfReferenceUID, author))
        dataset.RTROIObservationsSequence.append(_observation(number, label, author))
    slices.creation.restate(dataset, required=False)
    ensure_utf8(dataset)
    stack, present = label_slices(array, labels)
    contours = [
        [
            contour
            for k in present[place]
            for contour in _contours(k, label_mask(stack[k], place, label, flat=True), slices)
        ]
        for place, label in enumerate(labels)
    ]
    explicit = max((len(points) for found in contours for _, _, points in found), default=0) <= _EXPLICIT_LIMIT
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian if explicit else ImplicitVRLittleEndian
    encode = ElementBytes(explicit)
    references = [_reference(encode, slices, k) for k in range(len(slices.planes))]
    frame = dataset.ReferencedFrameOfReferenceSequence[0]
    series = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    series[_CONTOUR_IMAGES] = encode.raw(_CONTOUR_IMAGES, references)
    images = [encode.sequence(_CONTOUR_IMAGES, [reference]) for reference in references]
    dataset[_ROI_CONTOURS] = encode.raw(
        _ROI_CONTOURS,
        [
            _roi_contours(encode, number, label, found, images)
            for number, (label, found) in enumerate(zip(labels, contours, strict=True), 1)
        ],
    )
    dataset.save_as(path, enforce_file_format=True)


def _frame(first: Dataset, author: AlgorithmInfo) -> Dataset:
    """Create a data set with all but the structures: patient, study, series, equipment, structure set."""
    dataset = Dataset()
    copy_patient_study(dataset, first)
    now = datetime.now()
    dataset.SOPClassUID = RTStructureSetStorage
    dataset.SOPInstanceUID = generate_uid(prefix=None)
    dataset.Modality = "RTSTRUCT"
    dataset.SeriesInstanceUID = generate_uid(prefix=None)
    dataset.SeriesNumber = 9002
    dataset.SeriesDescription = f"Structures; {author.intended_use}"[:64]
    dataset.InstanceNumber = 1
    dataset.OperatorsName = ""
    dataset.Manufacturer = "medvit"
    dataset.ManufacturerModelName = author.bundle
    dataset.SoftwareVersions = author.software
    dataset.FrameOfReferenceUID = first.FrameOfReferenceUID
    dataset.PositionReferenceIndicator = first.get("PositionReferenceIndicator", "") or ""
    dataset.StructureSetLabel = "MEDVIT"
    dataset.StructureSetDescription = author.intended_use
    dataset.InstanceCreationDate = dataset.StructureSetDate = now.strftime("%Y%m%d")
    dataset.InstanceCreationTime = dataset.StructureSetTime = now.strftime("%H%M%S")
    dataset.ApprovalStatus = "UNAPPROVED"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset


def _references(slices: SourceImages) -> Dataset:
    first = slices.first
    series = Dataset()
    series.SeriesInstanceUID = first.SeriesInstanceUID
    study = Dataset()
    study.ReferencedSOPClassUID = "1.2.840.10008.3.1.2.3.1"  # Detached Study Management, as PS3.3 table C.8-41 requires
    study.ReferencedSOPInstanceUID = first.StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    frame = Dataset()
    frame.FrameOfReferenceUID = first.FrameOfReferenceUID
    frame.RTReferencedStudySequence = [study]
    return frame


def _roi(number: int, label: Label, frame: str, author: AlgorithmInfo) -> Dataset:
    item = Dataset()
    item.ROINumber = number
    item.ReferencedFrameOfReferenceUID = frame
    item.ROIName = label.title
    origin = author.origins.get(label.name)
    item.ROIGenerationAlgorithm = origin.algorithm_type if origin else "AUTOMATIC"
    made_by = f"{author.bundle}, weights {author.weights[:12]}" if author.weights else author.bundle
    item.ROIGenerationDescription = made_by[:64]
    return item


def _contours(k: int, mask: NDArray[np.bool_], slices: SourceImages) -> Iterator[_Contour]:
    """Yield the outlines of a mask, (column, row), on slice k."""
    for points in outline_mask(mask):
        index = np.column_stack([points, np.zeros(len(points)), np.ones(len(points))])
        values = (index @ slices.planes[k].T)[:, :3].ravel()
        # a ten-thousandth of a millimetre fits the 16 characters of a decimal string
        yield k, len(points), "\\".join(["%.4f"] * len(values)) % tuple(values.tolist())


def _reference(encode: ElementBytes, slices: SourceImages, k: int) -> bytes:
    """Return the elements of the item that refers to slice k."""
    item = slices.reference(k)
    frame = item.get("ReferencedFrameNumber")
    return (
        encode.text(_SOP_CLASS, "UI", item.ReferencedSOPClassUID)
        + encode.text(_INSTANCE, "UI", item.ReferencedSOPInstanceUID)
        + (b"" if frame is None else encode.text(_FRAME_NUMBER, "IS", str(frame)))
    )


def _roi_contours(
    encode: ElementBytes, number: int, label: Label, contours: Sequence[_Contour], references: Sequence[bytes]
) -> bytes:
    """Return the elements of an item of ROIContourSequence."""
    color = encode.text(_COLOR, "IS", "\\".join(map(str, label.color)))
    kind = encode.text(_GEOMETRIC_TYPE, "CS", "CLOSED_PLANAR")
    items = [
        references[k]
        + kind
        + encode.text(_POINT_COUNT, "IS", str(count))
        + encode.text(_CONTOUR_NUMBER, "IS", str(place))
        + encode.text(_CONTOUR_DATA, "DS", points)
        for place, (k, count, points) in enumerate(contours, 1)
    ]
    return color + encode.sequence(_CONTOURS, items) + encode.text(_REFERENCED_ROI, "IS", str(number))


def _observation(number: int, label: Label, author: AlgorithmInfo) -> Dataset:
    item = Dataset()
    item.ObservationNumber = number
    item.ReferencedROINumber = number
    kind, side = label.type, label.laterality
    item.RTROIIdentificationCodeSequence = [coded_item(kind.value, kind.scheme, kind.meaning)]
    if side is not None:
        modifier = coded_item(side.value, side.scheme, side.meaning)
        item.RTROIIdentificationCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [modifier]
    origin = author.origins.get(label.name)
    item.RTROIInterpretedType = origin.interpreted if origin else "ORGAN"
    item.ROIInterpreter = ""
    return item
