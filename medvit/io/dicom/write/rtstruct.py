"""Writer of DICOM RT Structure Sets (PS3.3 A.19): closed planar contours on the original slices."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, RTStructureSetStorage, generate_uid

from medvit.io.dicom.write.algorithm_info import AlgorithmInfo
from medvit.io.dicom.write.coded_items import coded_item
from medvit.io.dicom.write.label_masks import label_mask
from medvit.io.dicom.write.patient_study import copy_patient_study, ensure_utf8
from medvit.io.dicom.write.source_images import SourceImages
from medvit.io.polygon_masks import outline_mask
from medvit.labels import Label

__all__ = ["write_rtstruct"]


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
    dataset.ROIContourSequence = []
    dataset.RTROIObservationsSequence = []
    for number, label in enumerate(labels, 1):
        dataset.StructureSetROISequence.append(_roi(number, label, first.FrameOfReferenceUID, author))
        dataset.ROIContourSequence.append(_contours(number, label, array, slices))
        dataset.RTROIObservationsSequence.append(_observation(number, label, author))
    slices.creation.restate(dataset, required=False)
    ensure_utf8(dataset)
    if _longest(dataset) > _EXPLICIT_LIMIT:
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    dataset.save_as(path, enforce_file_format=True)


def _longest(dataset: Dataset) -> int:
    """Return the number of characters of the longest contour."""
    contours = [contour for item in dataset.ROIContourSequence for contour in item.ContourSequence]
    return max((sum(len(str(v)) + 1 for v in contour.ContourData) for contour in contours), default=0)


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
    series.ContourImageSequence = [slices.reference(k) for k in range(len(slices.planes))]
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


def _contours(number: int, label: Label, array: np.ndarray, slices: SourceImages) -> Dataset:
    item = Dataset()
    item.ROIDisplayColor = list(label.color)
    item.ReferencedROINumber = number
    item.ContourSequence = []
    mask = label_mask(array, number - 1, label)
    for k in np.flatnonzero(mask.any((0, 1))).tolist():
        for points in outline_mask(mask[:, :, k]):
            index = np.column_stack([points, np.zeros(len(points)), np.ones(len(points))])
            contour = Dataset()
            contour.ContourImageSequence = [slices.reference(k)]
            contour.ContourGeometricType = "CLOSED_PLANAR"
            contour.NumberOfContourPoints = len(points)
            # a ten-thousandth of a millimetre fits the 16 characters of a decimal string
            contour.ContourData = [f"{v:.4f}" for v in (index @ slices.planes[k].T)[:, :3].ravel()]
            contour.ContourNumber = len(item.ContourSequence) + 1
            item.ContourSequence.append(contour)
    return item


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
