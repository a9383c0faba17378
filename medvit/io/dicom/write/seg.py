"""Writer of DICOM Segmentation objects (PS3.3 A.51) on the original slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING

import highdicom as hd
import numpy as np
import pydicom
from pydicom.sr.coding import Code as DicomCode

from medvit.io.dicom.write.algorithm_info import AlgorithmInfo, to_dicom_code, tracking_uids
from medvit.io.dicom.write.label_masks import label_mask
from medvit.io.dicom.write.patient_study import copy_patient_study, ensure_utf8, strip_for_highdicom
from medvit.io.dicom.write.source_images import SourceImages
from medvit.labels import Label

if TYPE_CHECKING:
    from medvit.io.dicom.write.algorithm_info import SegmentOrigin

__all__ = ["write_seg"]


def _segment(number: int, label: Label, author: AlgorithmInfo, uid: str) -> hd.seg.SegmentDescription:
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
        segmented_property_category=to_dicom_code(label.category),
        segmented_property_type=to_dicom_code(label.type),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
        tracking_uid=uid,
        tracking_id=label.name,
        display_color=hd.color.CIELabColor.from_rgb(*label.color),
    )
    if label.laterality is not None:
        modifier = hd.sr.CodedConcept(label.laterality.value, label.laterality.scheme, label.laterality.meaning)
        description.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [modifier]
    return description


_UNKNOWN = "not stated in the source"


def _carried_over(description: hd.seg.SegmentDescription, origin: SegmentOrigin | None) -> hd.seg.SegmentDescription:
    """State the origin of a segment in its description, where it was not made by this run (PS3.3 C.8.20.2)."""
    if origin is None:
        return description
    del description.SegmentationAlgorithmIdentificationSequence
    description.SegmentAlgorithmType = origin.algorithm_type or "SEMIAUTOMATIC"
    if origin.algorithm_type == "MANUAL":
        del description.SegmentAlgorithmName
    else:
        description.SegmentAlgorithmName = (origin.algorithm_name or _UNKNOWN)[:64]
    if origin.tracking_id and origin.tracking_uid:
        description.TrackingID, description.TrackingUID = origin.tracking_id, origin.tracking_uid
    return description


def write_seg(
    path: Path,
    array: np.ndarray,
    slices: SourceImages,
    labels: Sequence[Label],
    author: AlgorithmInfo,
    tracking: Mapping[str, str] | None = None,
) -> None:
    """Write a BINARY segmentation with one segment for each label, numbered 1..N in the given order.

    Args:
        path: the file to write.
        array: (column, row, slice) label ids, or (column, row, slice, label) masks, which may overlap.
        slices: the source's slices, in the order of the array's, with all UIDs and one frame of reference.
        labels: the labels that occur in ``array``.
        author: the algorithm that made the labels.
        tracking: the tracking UID of each label, by name (``tracking_uids``); by default new ones.
    """
    if array.ndim == 3:
        numbered = np.zeros(array.shape, np.uint8 if len(labels) < 256 else np.uint16)
        for number, label in enumerate(labels, 1):
            numbered[label_mask(array, number - 1, label)] = number
    else:
        numbered = array.astype(np.uint8)
    headers, tracking = slices.normalised_headers(), tracking or tracking_uids(labels)
    first = deepcopy(headers[0])
    segmentation = hd.seg.Segmentation(
        source_images=strip_for_highdicom(headers),
        plane_positions=_positions(slices) if slices.frames else None,
        pixel_array=np.ascontiguousarray(numbered.swapaxes(0, 2)),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[
            _carried_over(_segment(n, label, author, tracking[label.name]), author.origins.get(label.name))
            for n, label in enumerate(labels, 1)
        ],
        series_instance_uid=hd.UID(),
        series_number=9001,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        **author.equipment(),
        content_label="MEDVIT",
        content_description=author.intended_use[:64],
        series_description=f"Segmentation; {author.intended_use}"[:64],
        omit_empty_frames=True,
    )
    copy_patient_study(segmentation, first)
    slices.creation.restate(segmentation, required=True)
    ensure_utf8(segmentation)
    pydicom.dcmwrite(path, segmentation, enforce_file_format=True)


def _positions(slices: SourceImages) -> list[hd.PlanePositionSequence]:
    """Return the position of each slice; a multi-frame source may hold more frames than are used, in any order."""
    return [
        hd.PlanePositionSequence(
            coordinate_system=hd.CoordinateSystemNames.PATIENT, image_position=plane[:3, 3].tolist()
        )
        for plane in slices.planes
    ]
