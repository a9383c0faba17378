"""DICOM Segmentation objects (PS3.3 A.51) on the original slices."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
from pydicom import Dataset
from pydicom.sr.coding import Code as DicomCode

from medvit.bundles import Code, Label

__all__ = ["Author", "tidy_headers", "write_seg"]

_TYPE_2 = (
    "PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime AccessionNumber ReferringPhysicianName "
    "StudyID SeriesNumber"
).split()
"""Attributes every object carries over from its study, empty where the source leaves them out (PS3.5 7.4.3)."""


@dataclass(frozen=True)
class Author:
    """What made an object, as it is written into it.

    Attributes:
        bundle: the bundle's name and version, e.g. "headneck_ct_swin_unetr 0.1.0".
        weights: sha256 of the weights.
        software: medvit's version.
        intended_use: the sentence every object carries.
    """

    bundle: str
    weights: str
    software: str
    intended_use: str


def tidy_headers(slices: Sequence[Dataset]) -> list[Dataset]:
    """Copies of the source headers with absent Type 2 attributes present and empty."""
    tidy = []
    for header in slices:
        copy = deepcopy(header)
        for keyword in _TYPE_2:
            if keyword not in copy:
                setattr(copy, keyword, None if keyword == "SeriesNumber" else "")
        tidy.append(copy)
    return tidy


def _code(code: Code) -> DicomCode:
    return DicomCode(code.value, code.scheme, code.meaning)


def _segment(number: int, label: Label, author: Author) -> hd.seg.SegmentDescription:
    algorithm = hd.AlgorithmIdentificationSequence(
        name=author.bundle,
        family=DicomCode("123109", "DCM", "Artificial Intelligence"),
        version=author.bundle.rpartition(" ")[2],
        source="medvit",
        parameters={"weights_sha256": author.weights},
    )
    description = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=label.title,
        segmented_property_category=_code(label.category),
        segmented_property_type=_code(label.type),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
        tracking_uid=hd.UID(),
        tracking_id=label.name,
        display_color=hd.color.CIELabColor.from_rgb(*label.color),
    )
    if label.laterality is not None:
        modifier = hd.sr.CodedConcept(label.laterality.value, label.laterality.scheme, label.laterality.meaning)
        description.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [modifier]
    return description


def write_seg(
    path: Path, array: np.ndarray, slices: Sequence[Dataset], labels: Sequence[Label], author: Author
) -> None:
    """Write a BINARY segmentation, one segment a label, numbered 1..N in the order given.

    Args:
        path: the file to write.
        array: (column, row, slice) label ids; slice k belongs to ``slices[k]``.
        slices: the source's headers, in the order of k, with all UIDs and one frame of reference.
        labels: those that occur in ``array``.
        author: what made it.
    """
    numbered = np.zeros(array.shape, np.uint8)
    for number, label in enumerate(labels, 1):
        numbered[array == label.id] = number
    segmentation = hd.seg.Segmentation(
        source_images=tidy_headers(slices),
        pixel_array=np.ascontiguousarray(numbered.transpose(2, 1, 0)),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[_segment(n, label, author) for n, label in enumerate(labels, 1)],
        series_instance_uid=hd.UID(),
        series_number=9001,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="medvit",
        manufacturer_model_name=author.bundle,
        software_versions=author.software,
        device_serial_number=author.weights[:16],
        content_label="MEDVIT",
        content_description=author.intended_use[:64],
        series_description=f"Segmentation; {author.intended_use}"[:64],
        omit_empty_frames=True,
    )
    pydicom.dcmwrite(path, segmentation, enforce_file_format=True)
