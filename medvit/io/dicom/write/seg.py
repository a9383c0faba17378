"""Writer of DICOM Segmentation objects (PS3.3 A.51) on the original slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import highdicom as hd
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.sr.coding import Code as DicomCode
from pydicom.valuerep import DSfloat, format_number_as_ds

from medvit.io.dicom.write.algorithm_info import AlgorithmInfo, to_dicom_code, tracking_uids
from medvit.io.dicom.write.element_bytes import ElementBytes
from medvit.io.dicom.write.frame_encoding import (
    encoded_position,
    raw_references,
    write_frame_groups,
    write_pixels,
)
from medvit.io.dicom.write.label_masks import label_counts
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

    highdicom makes the object with one frame. Frames are encoded here, since creating thousands of data sets takes most
    of the time.

    Args:
        path: the file to write.
        array: (column, row, slice) label ids, or (column, row, slice, label) masks, which may overlap.
        slices: the source's slices, in the order of the array's, with all UIDs and one frame of reference.
        labels: the labels that occur in ``array``.
        author: the algorithm that made the labels.
        tracking: the tracking UID of each label, by name (``tracking_uids``); by default new ones.
    """
    masks = _Masks(array, labels)
    segmentation = _with_one_frame(slices, labels, author, tracking or tracking_uids(labels), masks.shape)
    group = segmentation.PerFrameFunctionalGroupsSequence[0]
    positions = _positions(slices, group)
    cosines = segmentation.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient
    order = _along_normal(positions, cosines)
    filled = [k for k in order if masks.present[:, k].any()]
    frames = [(number, k) for number in range(1, len(labels) + 1) for k in filled if masks.present[number - 1, k]]
    _state_geometry(
        segmentation, np.array(positions, float), sorted(filled), len(labels), slices.spacing_mm is not None
    )
    _refer_to_sources(segmentation, slices)
    segmentation.SegmentsOverlap = "YES" if masks.overlap else "NO"
    segmentation.NumberOfFrames = len(frames)
    del segmentation.PerFrameFunctionalGroupsSequence, segmentation.PixelData
    pydicom.dcmwrite(path, segmentation, enforce_file_format=True)
    ranks = dict(zip(filled, range(1, len(filled) + 1), strict=True))
    with path.open("ab") as file:
        write_frame_groups(
            file,
            frames,
            [ranks.get(k, 0) for k in range(len(positions))],
            _derivations(group, slices),
            [encoded_position(position) for position in positions],
            numbered=len(labels) > 1,
        )
        write_pixels(file, (masks.of(number, k) for number, k in frames), len(frames), masks.shape[0] * masks.shape[1])


class _Masks:
    """Masks of the labels on each slice.

    Attributes:
        shape: (row, column) of a slice.
        present: (label, slice), True where a label has a pixel on a slice.
        overlap: True if two labels share a pixel.
    """

    def __init__(self, array: np.ndarray, labels: Sequence[Label]) -> None:
        self._stack = np.ascontiguousarray(array.T)  # (slice, row, column), or (label, slice, row, column)
        self._ids = None if array.ndim == 4 else [label.id for label in labels]
        self.shape = (array.shape[1], array.shape[0])
        if self._ids is None:
            self.present: NDArray[np.bool_] = np.count_nonzero(self._stack, axis=(2, 3)) > 0
            self.overlap = bool((np.count_nonzero(self._stack, axis=0) > 1).any())
        else:
            self.present = label_counts(self._stack, labels) > 0
            self.overlap = False

    def of(self, number: int, k: int) -> NDArray[np.bool_]:
        """Return the mask of segment ``number``, from 1, on slice k, (row, column)."""
        if self._ids is None:
            masks: NDArray[np.bool_] = self._stack[number - 1, k] != 0
            return masks
        mask: NDArray[np.bool_] = self._stack[k] == self._ids[number - 1]
        return mask


def _with_one_frame(
    slices: SourceImages,
    labels: Sequence[Label],
    author: AlgorithmInfo,
    tracking: Mapping[str, str],
    shape: tuple[int, int],
) -> hd.seg.Segmentation:
    """Create the object with a single frame, of the first slice."""
    headers = slices.normalised_headers(1)
    first = deepcopy(headers[0])
    pixels = np.zeros((1, *shape), np.uint8)
    pixels[0, 0, 0] = 1
    segmentation = hd.seg.Segmentation(
        source_images=strip_for_highdicom(headers),
        plane_positions=[
            hd.PlanePositionSequence(
                coordinate_system=hd.CoordinateSystemNames.PATIENT, image_position=slices.planes[0, :3, 3].tolist()
            )
        ]
        if slices.frames
        else None,
        pixel_array=pixels,
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
    return segmentation


def _position(values: Sequence[float]) -> list[DSfloat]:
    return [DSfloat(value, auto_format=True) for value in values]


def _positions(slices: SourceImages, group: Dataset) -> list[list[DSfloat]]:
    """Return ImagePositionPatient of each slice, as the source states it where highdicom found the source's frame."""
    if not slices.frames:
        return [_position(header.ImagePositionPatient) for header in slices.headers]
    derivation = group.DerivationImageSequence
    if derivation and derivation[0].SourceImageSequence[0].SpatialLocationsPreserved == "YES":
        groups = slices.first.PerFrameFunctionalGroupsSequence
        return [_position(groups[frame].PlanePositionSequence[0].ImagePositionPatient) for frame in slices.frames]
    return [_position(plane[:3, 3].tolist()) for plane in slices.planes]


def _derivations(group: Dataset, slices: SourceImages) -> list[bytes]:
    """Encode DerivationImageSequence of each slice, from that of the first slice; change ``group`` in place."""
    own, encoded = Dataset(), []
    made: dict[tuple[Any, ...], tuple[bytes, bytes]] = {}
    own.DerivationImageSequence = group.DerivationImageSequence
    for k in range(len(slices.planes)):
        reference = slices.reference(k)
        uid = reference.ReferencedSOPInstanceUID.encode("ascii")
        # slices whose elements are equally long differ only in the bytes of their UID
        alike = len(uid), reference.ReferencedSOPClassUID, reference.get("ReferencedFrameNumber")
        if alike not in made:
            for derivation in own.DerivationImageSequence:
                derivation.SourceImageSequence[0].update(reference)
            made[alike] = ElementBytes().group(own), uid
        content, first = made[alike]
        encoded.append(content.replace(first, uid))
    return encoded


def _along_normal(positions: Sequence[Sequence[float]], cosines: Sequence[float]) -> list[int]:
    """Return the slices in the order of their distance along the normal of highdicom's volumes, down x across."""
    normal = np.cross(np.array(cosines[3:], float), np.array(cosines[:3], float))
    return [int(k) for k in np.argsort(np.array(positions, float) @ normal, kind="stable")]


def _state_geometry(
    segmentation: hd.seg.Segmentation, positions: NDArray[np.float64], filled: list[int], count: int, spaced: bool
) -> None:
    """State what depends on the positions of all slices: their spacing, and if frames of one label form a volume."""
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    cosines, measures = shared.PlaneOrientationSequence[0].ImageOrientationPatient, shared.PixelMeasuresSequence[0]
    if "SpacingBetweenSlices" in measures and len(positions) > 1 and not spaced:
        del measures.SpacingBetweenSlices  # highdicom states 1 for a single slice
        spacing, _ = hd.spatial.get_volume_positions(positions, cosines)
        if spacing is not None:
            measures.SpacingBetweenSlices = format_number_as_ds(spacing)
    if count == 1 and len(filled) > 1:
        spacing, _ = hd.spatial.get_volume_positions(positions[filled], cosines, sort=False)
        if spacing:
            segmentation.DimensionOrganizationType = "3D"


def _refer_to_sources(segmentation: hd.seg.Segmentation, slices: SourceImages) -> None:
    """Refer to the instances of all slices, by instance and by series."""
    by_series: dict[str, list[tuple[str, str]]] = {}
    for header in slices.headers:
        by_series.setdefault(str(header.SeriesInstanceUID), []).append((header.SOPClassUID, header.SOPInstanceUID))
    for element in raw_references(by_series):
        segmentation[element.tag] = element
