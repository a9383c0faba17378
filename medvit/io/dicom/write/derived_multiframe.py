"""Derived image of a multi-frame source: one file with a functional group for each frame (PS3.3 C.7.6.16)."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.sequence import Sequence as Items

from medvit.io.dicom.header import shared_groups
from medvit.io.dicom.write.pixel_encoding import PixelEncoding, has_rescale, scale_group
from medvit.io.dicom.write.source_images import SourceImages

if TYPE_CHECKING:
    from medvit.io.dicom.write.derivation import Derivation

__all__ = ["as_frames"]

_FRAME_TYPES = (
    "CTImageFrameTypeSequence MRImageFrameTypeSequence PETFrameTypeSequence XRay3DFrameTypeSequence "
    "XAXRFFrameCharacteristicsSequence"
).split()


def as_frames(
    dataset: Dataset, values: NDArray[np.float32], slices: SourceImages, storage: PixelEncoding, derivation: Derivation
) -> None:
    """Add the used frames to a copy of the source's header, in the order of the source.

    Args:
        dataset: the header, complete except for frames and pixels; changed in place.
        values: (column, row, slice).
        slices: the source's slices, each with its frame.
        storage: encoding of the values.
        derivation: description of the derivation.
    """
    from medvit.io.dicom.write.derivation import derivation_items, referenced_series

    order = sorted(range(len(slices.frames)), key=lambda k: slices.frames[k])
    groups = dataset.PerFrameFunctionalGroupsSequence
    shared = shared_groups(dataset)
    shared.pop("DerivationImageSequence", None)
    hounsfield = dataset.Modality == "CT" and all(has_rescale(scale_group(slices, k)) for k in order)
    kept, kind = [], "HU" if hounsfield else "US"
    for k in order:
        own = groups[slices.frames[k]]
        item = Dataset()
        item.DerivationDescription = derivation.words()
        item.SourceImageSequence, code = derivation_items(slices, k, derivation)
        if code is not None:
            item.DerivationCodeSequence = code
        own.DerivationImageSequence = Items([item])
        if storage.stated and not storage.kept:
            own.PixelValueTransformationSequence = _transformation(*storage.scales[k], kind)
        _derived_types(own)
        kept.append(own)
    if storage.stated and not storage.kept:
        shared.pop("PixelValueTransformationSequence", None)
    _derived_types(shared)
    if derivation.upsampled:
        _lay(shared, kept, slices, order)
        dataset.Columns, dataset.Rows = values.shape[:2]
    dataset.SharedFunctionalGroupsSequence = Items([shared])
    dataset.PerFrameFunctionalGroupsSequence = Items(kept)
    dataset.NumberOfFrames = len(kept)
    # each frame states its own derivation
    dataset.pop("DerivationCodeSequence", None)
    dataset.ReferencedSeriesSequence = referenced_series(slices, 0)
    evidence = Dataset()
    evidence.StudyInstanceUID = slices.first.StudyInstanceUID
    evidence.ReferencedSeriesSequence = Items([_evident(slices)])
    dataset.SourceImageEvidenceSequence = Items([evidence])
    dataset.PixelData = b"".join(storage.stored(values[:, :, k], k).tobytes() for k in order)
    dataset["PixelData"].VR = "OW"


def _lay(shared: Dataset, kept: list[Dataset], slices: SourceImages, order: list[int]) -> None:
    """Set the pixel size and first position of all frames for the finer pixels."""
    from medvit.io.dicom.write.derivation import first_pixel_position, upsampled_pixel_measures

    found = next((g.PixelMeasuresSequence[0] for g in (shared, *kept) if g.get("PixelMeasuresSequence")), Dataset())
    measures = deepcopy(found)
    measures.PixelSpacing = upsampled_pixel_measures(slices)
    shared.PixelMeasuresSequence = Items([measures])
    shared.pop("PlanePositionSequence", None)
    for k, own in zip(order, kept, strict=True):
        own.pop("PixelMeasuresSequence", None)
        place = Dataset()
        place.ImagePositionPatient = first_pixel_position(slices, k)
        own.PlanePositionSequence = Items([place])


def _evident(slices: SourceImages) -> Dataset:
    """Return the source's item for the SOP Instance Reference Macro (PS3.3 table 10-4)."""
    series, instance = Dataset(), Dataset()
    instance.ReferencedSOPClassUID = slices.first.SOPClassUID
    instance.ReferencedSOPInstanceUID = slices.first.SOPInstanceUID
    series.SeriesInstanceUID = slices.first.SeriesInstanceUID
    series.ReferencedSOPSequence = Items([instance])
    return series


def _transformation(slope: float, intercept: float, kind: str) -> Items:
    item = Dataset()
    item.RescaleIntercept, item.RescaleSlope, item.RescaleType = f"{intercept:.10g}"[:16], f"{slope:.10g}"[:16], kind
    return Items([item])


def _derived_types(group: Dataset) -> None:
    for name in _FRAME_TYPES:
        for item in group.get(name) or []:
            if item.get("FrameType"):
                item.FrameType = ["DERIVED", *list(item.FrameType)[1:]]
