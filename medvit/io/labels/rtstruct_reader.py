"""Reader of RT Structure Sets (PS3.3 A.19): contours are filled on a grid by the rule that voxel centres decide."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from medvit.errors import GeometryError, SelectionError, SourceError
from medvit.io.dicom.write import SegmentOrigin
from medvit.io.geometry import flip_lps_ras
from medvit.io.labels.dicom_objects import (
    check_frame,
    dicom_errors_as_source_errors,
    drawn_on,
    instances,
    open_object,
    series_of,
)
from medvit.io.labels.grid_mapping import lost_labels_note
from medvit.io.labels.label_set import Grid, LabelMask, LabelSet
from medvit.io.labels.names import code_of, make_label, unique
from medvit.io.labels.rasterize import Contour, RasterizedRoi, fill, plane_distance
from medvit.io.labels.rtstruct_warnings import SkippedContours, flags_of, notes_of
from medvit.io.labels.stack_labels import contours_on_slices, onto_grid, slice_index_grid
from medvit.io.scan import Scan
from medvit.labels import Label

__all__ = ["read_rtstruct", "referenced_series"]

_SOP_CLASS = "1.2.840.10008.5.1.4.1.1.481.3"
_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR", "CLOSED_PLANAR_XOR")
"""Types of contours that enclose an area (PS3.3 C.8.8.6.1); the second is the standard's own spelling."""

_OTHERS = ("POINT", "OPEN_PLANAR", "OPEN_NONPLANAR")


@dataclass(frozen=True, eq=False)
class _Roi:
    label: Label
    origin: SegmentOrigin
    contours: list[Contour]


def read_rtstruct(path: Path, like: Scan | None = None, force: bool = False) -> LabelSet:
    """Read an RT Structure Set as masks on a reference's grid.

    A voxel belongs to an ROI where its centre lies inside an odd number of closed contours of its plane, or on an edge,
    so that nested contours and keyholes are holes. Contours between the reference's slices fill the slab half-way to
    the neighbouring contours; shapes are not interpolated.

    Args:
        path: the file.
        like: the image on whose grid to place the labels.
        force: True to accept a reference with another frame of reference.

    Raises:
        SelectionError: no reference was given; the message names the series that the file refers to.
        SourceError: the file is not an RTSTRUCT, is damaged, or has no closed contour.
        GeometryError: no contour lies on the reference.
    """
    dataset = open_object(path)
    with dicom_errors_as_source_errors(path.name, "an RTSTRUCT"):
        _require_rtstruct(dataset, path.name)
        series = referenced_series(dataset)
        frame = _frame(dataset)
        if like is None:
            named = f"series {series[0]}" if series else "a series it does not name"
            raise SelectionError(
                f"{path.name}, an RTSTRUCT drawn on {named}",
                "contours become voxels only on a grid",
                "Give that series, or another image of the same place, with {like=...}.",
                option="like",
            )
        flags = check_frame((frame, series), like, force)
        rois, aside = _rois(dataset, path.name)
        flags += aside + _missing_images(dataset, like)
    if not any(roi.contours for roi in rois):
        raise SourceError(
            f"{path.name}, an RTSTRUCT without any closed contour", "there is nothing to fill", "Check the export."
        )
    own = drawn_on(like, series)
    grid, rois, on_slices = _where(rois, like)
    segments, more, notes = _fill_all(rois, grid, own or on_slices)
    found = LabelSet(
        segments=tuple(segments),
        grid=grid,
        kind="rtstruct",
        frame=frame,
        series=series,
        reference=like,
        notes=tuple(notes),
        flags=(*flags, *more),
    )
    return onto_grid(found, like) if on_slices else found


def referenced_series(dataset: Dataset) -> tuple[str, ...]:
    """Return the UIDs of the image series on which the contours were drawn."""
    return tuple(
        uid
        for frame in dataset.get("ReferencedFrameOfReferenceSequence", []) or []
        for study in frame.get("RTReferencedStudySequence", []) or []
        for uid in series_of(study)
    )


def _require_rtstruct(dataset: Dataset, name: str) -> None:
    if str(dataset.get("SOPClassUID", "")) != _SOP_CLASS:
        what = dataset.get("Modality", "") or "unknown"
        raise SourceError(
            f"{name}, a DICOM object of modality {what}",
            "an RTSTRUCT is needed",
            "To give an image as the grid, use {like}.",
            option="like",
        )
    if not dataset.get("StructureSetROISequence"):
        raise SourceError(f"{name}, an RTSTRUCT without ROIs", "there is nothing to fill", "Check the export.")


def _frame(dataset: Dataset) -> str:
    """Return the frame of reference of the ROIs; refuse several."""
    found = {str(roi.get("ReferencedFrameOfReferenceUID") or "") for roi in dataset.StructureSetROISequence} - {""}
    if len(found) > 1:
        raise GeometryError(
            f"an RTSTRUCT whose ROIs lie in {len(found)} frames of reference",
            "a grid has one",
            "Export them separately.",
        )
    return found.pop() if found else str(dataset.get("FrameOfReferenceUID") or "")


def _rois(dataset: Dataset, name: str) -> tuple[list[_Roi], list[str]]:
    """Return each ROI with its closed contours, and flags on contours that were set aside."""
    aside = SkippedContours()
    numbers = [int(roi.ROINumber) for roi in dataset.StructureSetROISequence]
    drawn = _drawn(dataset, numbers, name, aside)
    observed = {int(item.ReferencedROINumber): item for item in dataset.get("RTROIObservationsSequence", []) or []}
    kept = all(0 < n < 2**16 for n in numbers)
    labels, origins, contours = [], [], []
    for place, (number, roi) in enumerate(zip(numbers, dataset.StructureSetROISequence, strict=True), 1):
        items, observation = drawn[number], observed.get(number, Dataset())
        title = str(roi.get("ROIName") or "")
        kind = (observation.get("RTROIIdentificationCodeSequence") or [Dataset()])[0]
        side = (kind.get("SegmentedPropertyTypeModifierCodeSequence") or [Dataset()])[0]
        color = next((item.ROIDisplayColor for item in items if item.get("ROIDisplayColor")), None)
        label = make_label(number if kept else place, title, color, (None, code_of(kind), code_of(side)))
        labels.append(label)
        origins.append(
            SegmentOrigin(
                algorithm_type=str(roi.get("ROIGenerationAlgorithm") or "").upper(),
                interpreted=str(observation.get("RTROIInterpretedType") or ""),
            )
        )
        contours.append(
            _closed([c for item in items for c in item.get("ContourSequence") or []], label.title, name, aside)
        )
    return [_Roi(*row) for row in zip(unique(labels), origins, contours, strict=True)], aside.flags()


def _drawn(dataset: Dataset, numbers: Sequence[int], name: str, aside: SkippedContours) -> dict[int, list[Dataset]]:
    """Return the contour items of each ROI number; an ROI may have several."""
    drawn: dict[int, list[Dataset]] = defaultdict(list)
    for item in dataset.get("ROIContourSequence", []) or []:
        # the number is the last tag of the item: where it is missing, the file may have been cut off
        number = int(item.ReferencedROINumber)
        if number in numbers:
            drawn[number].append(item)
        else:
            aside.strange += len(item.get("ContourSequence") or [])
    twice = sorted({n for n in drawn if numbers.count(n) > 1})
    if twice:
        raise SourceError(
            f"{name}, an RTSTRUCT in which {numbers.count(twice[0])} ROIs have the number {twice[0]}",
            "contours refer to ROIs by their numbers",
            "Export it again with a number for each ROI.",
        )
    return drawn


def _closed(items: Sequence[Dataset], roi: str, name: str, aside: SkippedContours) -> list[Contour]:
    """Return the contours of an ROI that enclose an area; count the others."""
    closed = []
    for item in items:
        shape = str(item.get("ContourGeometricType") or "").upper()
        if shape not in _CLOSED:
            aside.shapes[shape if shape in _OTHERS else "unknown"] += 1
            continue
        points = _points(item, roi, name)
        if not len(points):
            raise SourceError(
                f"{name} with a closed contour of {roi} without points",
                "at least three points are needed",
                "Export it again.",
            )
        stated = item.get("NumberOfContourPoints")
        if stated is not None and int(stated) != len(points):
            aside.miscounted[roi] += 1
        if len(points) < 3:
            aside.thin[roi] += 1
        else:
            closed.append(Contour(points, shape != "CLOSED_PLANAR"))
    return closed


def _points(item: Dataset, roi: str, name: str) -> NDArray[np.float64]:
    """Return the points of one contour in RAS+ millimetres, (point, axis)."""
    values = _numbers(item)
    if len(values) % 3 or not np.isfinite(values).all():
        raise SourceError(
            f"{name} with a contour of {roi} whose {len(values)} coordinates are not finite triples",
            "each point needs x, y and z",
            "Export it again.",
        )
    flip = flip_lps_ras(np.eye(4))[:3, :3]
    return np.asarray(values.reshape(-1, 3) @ flip)


def _numbers(item: Dataset) -> NDArray[np.float64]:
    """Parse Contour Data directly from the file's text; pydicom would validate each of a million values separately."""
    if "ContourData" not in item:
        return np.empty(0)
    stored = item.get_item("ContourData").value
    if isinstance(stored, bytes):
        text = stored.rstrip(b" \0")
        return np.array([float(part) for part in text.split(b"\\")] if text else [], dtype=np.float64)
    return np.array([float(v) for v in stored or []], dtype=np.float64)


def _missing_images(dataset: Dataset, like: Scan) -> list[str]:
    """Flag the images that contours refer to but the reference lacks."""
    present = instances(like)
    if not present:
        return []
    named = {
        str(image.get("ReferencedSOPInstanceUID", ""))
        for item in dataset.get("ROIContourSequence", []) or []
        for contour in item.get("ContourSequence", []) or []
        for image in contour.get("ContourImageSequence", []) or []
    }
    absent = len(named - present)
    if not absent:
        return []
    return [f"Contours name {absent} image(s) that the reference does not hold; they were placed by their coordinates."]


def _where(rois: list[_Roi], like: Scan) -> tuple[Grid, list[_Roi], bool]:
    """Choose the grid to fill: the slices of an irregular stack where all contours lie on them, else the reference's
    grid.
    """
    if like.original is not None:
        moved = [contours_on_slices(roi.contours, like.original) for roi in rois]
        on_slices = [replace(roi, contours=c) for roi, c in zip(rois, moved, strict=True) if c is not None]
        if len(on_slices) == len(rois):
            return slice_index_grid(like.original), on_slices, True
    return Grid.of(like), rois, False


def _fill_all(rois: Sequence[_Roi], grid: Grid, own: bool) -> tuple[list[LabelMask], list[str], list[str]]:
    apart = 0.0 if own else plane_distance([contour for roi in rois for contour in roi.contours])
    filled: list[RasterizedRoi] = [fill(roi.contours, grid, apart) for roi in rois]
    segments = []
    for roi, found in zip(rois, filled, strict=True):
        start, voxels = found.pieces.gather()
        segments.append(LabelMask(roi.label, start, voxels, roi.origin))
    if rois and all(len(roi.contours) - found.twice == found.off for roi, found in zip(rois, filled, strict=True)):
        raise GeometryError(
            f"{sum(found.off for found in filled)} contours and none of them on the reference's grid",
            "they lie elsewhere in space",
            "Give the series they were drawn on with {like=...}.",
            option="like",
        )
    titles = [roi.label.title for roi in rois]
    small = [
        title
        for title, roi, found, segment in zip(titles, rois, filled, segments, strict=True)
        if len(roi.contours) > found.off + found.bent + found.twice and not segment.voxels.any()
    ]
    bare = [roi.label.title for roi in rois if not roi.contours]
    return segments, [*flags_of(titles, filled), *lost_labels_note(small)], notes_of(titles, filled, bare)
