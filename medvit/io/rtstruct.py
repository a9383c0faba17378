"""DICOM RT Structure Sets (PS3.3 A.19): closed planar contours on the original slices."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
import pydicom
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid

from medvit.bundles import Code, Label
from medvit.io.contours import outline_mask
from medvit.io.geometry import Affine
from medvit.io.seg import Author, tidy_headers

__all__ = ["write_rtstruct"]

_PATIENT_AND_STUDY = (
    "PatientName PatientID PatientBirthDate PatientSex StudyInstanceUID StudyDate StudyTime StudyID AccessionNumber "
    "ReferringPhysicianName"
).split()


def write_rtstruct(
    path: Path, array: np.ndarray, lps: Affine, slices: Sequence[Dataset], labels: Sequence[Label], author: Author
) -> None:
    """Write one ROI a label, one contour for each outline of each slice.

    Args:
        path: the file to write.
        array: (column, row, slice) label ids; slice k belongs to ``slices[k]``.
        lps: voxel index to LPS millimetres.
        slices: the source's headers, in the order of k.
        labels: those that occur in ``array``.
        author: what made it.
    """
    headers = tidy_headers(slices)
    dataset = _frame(headers[0], author)
    dataset.ReferencedFrameOfReferenceSequence = [_references(headers)]
    dataset.StructureSetROISequence = []
    dataset.ROIContourSequence = []
    dataset.RTROIObservationsSequence = []
    for number, label in enumerate(labels, 1):
        dataset.StructureSetROISequence.append(_roi(number, label, headers[0].FrameOfReferenceUID, author))
        dataset.ROIContourSequence.append(_contours(number, label, array, lps, headers))
        dataset.RTROIObservationsSequence.append(_observation(number, label))
    dataset.save_as(path, enforce_file_format=True)


def _frame(first: Dataset, author: Author) -> Dataset:
    """Everything but the structures: patient, study, series, equipment, structure set."""
    dataset = Dataset()
    for keyword in _PATIENT_AND_STUDY:
        setattr(dataset, keyword, first.get(keyword))
    if first.get("SpecificCharacterSet"):
        dataset.SpecificCharacterSet = first.SpecificCharacterSet
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


def _image_reference(header: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = header.SOPClassUID
    item.ReferencedSOPInstanceUID = header.SOPInstanceUID
    return item


def _references(headers: Sequence[Dataset]) -> Dataset:
    series = Dataset()
    series.SeriesInstanceUID = headers[0].SeriesInstanceUID
    series.ContourImageSequence = [_image_reference(h) for h in headers]
    study = Dataset()
    study.ReferencedSOPClassUID = "1.2.840.10008.3.1.2.3.1"  # Detached Study Management, as PS3.3 table C.8-41 asks
    study.ReferencedSOPInstanceUID = headers[0].StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    frame = Dataset()
    frame.FrameOfReferenceUID = headers[0].FrameOfReferenceUID
    frame.RTReferencedStudySequence = [study]
    return frame


def _roi(number: int, label: Label, frame: str, author: Author) -> Dataset:
    item = Dataset()
    item.ROINumber = number
    item.ReferencedFrameOfReferenceUID = frame
    item.ROIName = label.title
    item.ROIGenerationAlgorithm = "AUTOMATIC"
    item.ROIGenerationDescription = f"{author.bundle}, weights {author.weights[:12]}"[:64]
    return item


def _contours(number: int, label: Label, array: np.ndarray, lps: Affine, headers: Sequence[Dataset]) -> Dataset:
    item = Dataset()
    item.ROIDisplayColor = list(label.color)
    item.ReferencedROINumber = number
    item.ContourSequence = []
    mask = array == label.id
    for k in np.flatnonzero(mask.any((0, 1))).tolist():
        for points in outline_mask(mask[:, :, k]):
            index = np.column_stack([points, np.full(len(points), k), np.ones(len(points))])
            contour = Dataset()
            contour.ContourImageSequence = [_image_reference(headers[k])]
            contour.ContourGeometricType = "CLOSED_PLANAR"
            contour.NumberOfContourPoints = len(points)
            # a ten-thousandth of a millimetre fits the 16 characters of a decimal string
            contour.ContourData = [f"{v:.4f}" for v in (index @ lps.T)[:, :3].ravel()]
            contour.ContourNumber = len(item.ContourSequence) + 1
            item.ContourSequence.append(contour)
    return item


def _observation(number: int, label: Label) -> Dataset:
    item = Dataset()
    item.ObservationNumber = number
    item.ReferencedROINumber = number
    item.RTROIIdentificationCodeSequence = [_code_item(label.type)]
    if label.laterality is not None:
        item.RTROIIdentificationCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [
            _code_item(label.laterality)
        ]
    item.RTROIInterpretedType = "ORGAN"
    item.ROIInterpreter = ""
    return item


def _code_item(code: Code) -> Dataset:
    item = Dataset()
    item.CodeValue = code.value
    item.CodingSchemeDesignator = code.scheme
    item.CodeMeaning = code.meaning
    return item


def read_contours(path: Path) -> dict[str, list[np.ndarray]]:
    """ROI names and their contours, each (point, 3) in LPS millimetres."""
    dataset = pydicom.dcmread(path)
    names = {int(roi.ROINumber): str(roi.ROIName) for roi in dataset.StructureSetROISequence}
    return {
        names[int(item.ReferencedROINumber)]: [
            np.array(contour.ContourData, dtype=np.float64).reshape(-1, 3)
            for contour in item.get("ContourSequence", [])
        ]
        for item in dataset.ROIContourSequence
    }
