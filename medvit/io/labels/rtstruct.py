"""Reading RT Structure Sets (PS3.3 A.19) onto a grid: a voxel belongs where its centre lies within the contours."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from medvit.bundles import Label
from medvit.errors import GeometryError, SelectionError, SourceError
from medvit.io.geometry import flip_lps_ras
from medvit.io.labels.filling import Contour, Filled, fill, plane_distance
from medvit.io.labels.model import Grid, LabelSet, Origin, Segment
from medvit.io.labels.naming import code_of, make_label, unique
from medvit.io.labels.objects import check_frame, drawn_on, instances, open_object, sound
from medvit.io.labels.placing import vanished
from medvit.io.scan import Scan

__all__ = ["read_rtstruct", "referenced_series"]

_SOP_CLASS = "1.2.840.10008.5.1.4.1.1.481.3"
_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR", "CLOSED_PLANAR_XOR")
"""Contours that enclose an area (PS3.3 C.8.8.6.1); the middle one is how the standard spells it."""

_OTHERS = ("POINT", "OPEN_PLANAR", "OPEN_NONPLANAR")


@dataclass(frozen=True, eq=False)
class _Roi:
    label: Label
    origin: Origin
    contours: list[Contour]


def read_rtstruct(path: Path, like: Scan | None = None, force: bool = False) -> LabelSet:
    """An RT Structure Set as masks on a reference's grid.

    A voxel belongs to an ROI where its centre lies inside an odd number of its closed contours in the plane, or on an
    edge: nested contours and keyholes are holes. Where contours lie between the reference's slices, each stands for the
    slab half-way to its neighbours; shapes are not interpolated.

    Args:
        path: the file.
        like: the image on whose grid to put the labels.
        force: take the positions as given although the reference has another frame of reference.

    Raises:
        SelectionError: no reference; the message names the series the file was drawn on.
        SourceError: not an RTSTRUCT, damaged, or without a closed contour.
        GeometryError: no contour lies on the reference.
    """
    dataset = open_object(path)
    with sound(path.name, "RTSTRUCT"):
        _require_rtstruct(dataset, path.name)
        series = referenced_series(dataset)
        frame = _frame(dataset)
        if like is None:
            named = f"series {series[0]}" if series else "a series it does not name"
            raise SelectionError(
                f"Found {path.name}, an RTSTRUCT drawn on {named}; contours need its grid to become voxels. "
                "Give that series, or another image of the same place, with --like."
            )
        flags = check_frame((frame, series), like, force)
        rois, aside = _rois(dataset, path.name)
    if not any(roi.contours for roi in rois):
        raise SourceError(
            f"Found {path.name}, an RTSTRUCT without any closed contour; there is nothing to fill. Check the export."
        )
    flags += aside + _missing_images(dataset, like)
    segments, more, notes = _fill_all(rois, like, drawn_on(like, series))
    return LabelSet(
        tuple(segments), Grid.of(like), "rtstruct", frame, series, like, notes=tuple(notes), flags=(*flags, *more)
    )


def referenced_series(dataset: Dataset) -> tuple[str, ...]:
    """UIDs of the image series the contours were drawn on."""
    return tuple(
        str(series.SeriesInstanceUID)
        for frame in dataset.get("ReferencedFrameOfReferenceSequence", []) or []
        for study in frame.get("RTReferencedStudySequence", []) or []
        for series in study.get("RTReferencedSeriesSequence", []) or []
    )


def _require_rtstruct(dataset: Dataset, name: str) -> None:
    if str(dataset.get("SOPClassUID", "")) != _SOP_CLASS:
        what = dataset.get("Modality", "") or "unknown"
        raise SourceError(
            f"Found {name}, a DICOM object of modality {what}; an RTSTRUCT is needed. To give an image as the grid, use --like."
        )
    if not dataset.get("StructureSetROISequence"):
        raise SourceError(f"Found {name}, an RTSTRUCT without ROIs; there is nothing to fill. Check the export.")


def _frame(dataset: Dataset) -> str:
    """The frame of reference the ROIs lie in; several are refused."""
    found = {str(roi.get("ReferencedFrameOfReferenceUID") or "") for roi in dataset.StructureSetROISequence} - {""}
    if len(found) > 1:
        raise GeometryError(
            f"Found an RTSTRUCT whose ROIs lie in {len(found)} frames of reference; one grid holds one. Export them apart."
        )
    return found.pop() if found else str(dataset.get("FrameOfReferenceUID") or "")


def _rois(dataset: Dataset, name: str) -> tuple[list[_Roi], list[str]]:
    """Each ROI with its closed contours, and what was set aside."""
    drawn = {int(item.ReferencedROINumber): item for item in dataset.get("ROIContourSequence", []) or []}
    observed = {int(item.ReferencedROINumber): item for item in dataset.get("RTROIObservationsSequence", []) or []}
    numbers = [int(roi.ROINumber) for roi in dataset.StructureSetROISequence]
    kept = len(set(numbers)) == len(numbers) and all(0 < n < 2**16 for n in numbers)
    labels, origins, contours, aside = [], [], [], []
    other: dict[str, int] = defaultdict(int)
    for place, (number, roi) in enumerate(zip(numbers, dataset.StructureSetROISequence, strict=True), 1):
        item, observation = drawn.get(number, Dataset()), observed.get(number, Dataset())
        title = str(roi.get("ROIName") or "")
        kind = (observation.get("RTROIIdentificationCodeSequence") or [Dataset()])[0]
        side = (kind.get("SegmentedPropertyTypeModifierCodeSequence") or [Dataset()])[0]
        color = item.get("ROIDisplayColor")
        label = make_label(number if kept else place, title, color or None, (None, code_of(kind), code_of(side)))
        labels.append(label)
        origins.append(
            Origin(
                str(roi.get("ROIGenerationAlgorithm") or "").upper(),
                interpreted=str(observation.get("RTROIInterpretedType") or ""),
            )
        )
        closed = []
        for contour in item.get("ContourSequence") or []:
            shape = str(contour.get("ContourGeometricType") or "").upper()
            if shape in _CLOSED:
                closed.append(_contour(contour, label.title, name))
            else:
                other[shape if shape in _OTHERS else "unknown"] += 1
        contours.append(closed)
    for shape, count in other.items():
        aside.append(f"{count} {shape} contour(s) were set aside; only closed planar ones enclose voxels.")
    return [_Roi(*row) for row in zip(unique(labels), origins, contours, strict=True)], aside


def _contour(item: Dataset, roi: str, name: str) -> Contour:
    """The points of one contour in RAS+ millimetres, (point, axis)."""
    values = _numbers(item)
    if len(values) % 3 or not np.isfinite(values).all():
        raise SourceError(
            f"Found {name} with a contour of {roi} whose {len(values)} coordinates are not finite triples; each point needs "
            "x, y and z. Export it again."
        )
    points = values.reshape(-1, 3)
    if len(points) < 3:
        raise SourceError(
            f"Found {name} with a closed contour of {roi} of {len(points)} point(s); at least three enclose an area. Export it again."
        )
    flip = flip_lps_ras(np.eye(4))[:3, :3]
    return Contour(points @ flip)


def _numbers(item: Dataset) -> NDArray[np.float64]:
    """Contour Data as numbers, straight from the file's text: pydicom would check each of a million by itself."""
    if "ContourData" not in item:
        return np.empty(0)
    stored = item.get_item("ContourData").value
    if isinstance(stored, bytes):
        text = stored.rstrip(b" \0")
        return np.array([float(part) for part in text.split(b"\\")] if text else [], dtype=np.float64)
    return np.array([float(v) for v in stored or []], dtype=np.float64)


def _missing_images(dataset: Dataset, like: Scan) -> list[str]:
    """How many of the images that contours name are not among the reference's."""
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


def _fill_all(rois: Sequence[_Roi], like: Scan, own: bool) -> tuple[list[Segment], list[str], list[str]]:
    grid = Grid.of(like)
    apart = 0.0 if own else plane_distance([contour for roi in rois for contour in roi.contours])
    filled: list[Filled] = [fill(roi.contours, grid, apart) for roi in rois]
    segments = []
    for roi, found in zip(rois, filled, strict=True):
        start, voxels = found.pieces.gather()
        segments.append(Segment(roi.label, start, voxels, roi.origin))
    total = sum(len(roi.contours) for roi in rois)
    off = {roi.label.title: found.off for roi, found in zip(rois, filled, strict=True) if found.off}
    if sum(off.values()) == total:
        raise GeometryError(
            f"Found {total} contours and none of them on the reference's grid; they were drawn elsewhere. "
            "Give the series they were drawn on with --like."
        )
    small = [
        roi.label.title
        for roi, found, segment in zip(rois, filled, segments, strict=True)
        if len(roi.contours) > found.off + found.bent and not segment.voxels.any()
    ]
    return segments, [*_flags(rois, filled, off), *vanished(small)], _notes(rois, filled)


def _flags(rois: Sequence[_Roi], filled: Sequence[Filled], off: dict[str, int]) -> list[str]:
    flags = []
    if off:
        named = ", ".join(f"{title} {count}" for title, count in off.items())
        flags.append(f"Contours beyond the reference's slices were set aside: {named}.")
    cut = [roi.label.title for roi, found in zip(rois, filled, strict=True) if found.cut]
    if cut:
        flags.append(f"Contours reach beyond the edge of the reference's slices and were cut: {', '.join(cut)}.")
    bent = {roi.label.title: found.bent for roi, found in zip(rois, filled, strict=True) if found.bent}
    if bent:
        named = ", ".join(f"{title} {count}" for title, count in bent.items())
        flags.append(f"Contours that are not flat were set aside: {named}.")
    return flags


def _notes(rois: Sequence[_Roi], filled: Sequence[Filled]) -> list[str]:
    notes = []
    between = [roi.label.title for roi, found in zip(rois, filled, strict=True) if found.between]
    if between:
        notes.append(
            f"Contours lie between the reference's slices; each stands for the slab around it: {', '.join(between)}."
        )
    gaps = [f"{roi.label.title} {found.gaps}" for roi, found in zip(rois, filled, strict=True) if found.gaps]
    if gaps:
        notes.append(f"Slices without a contour between an ROI's first and last, kept empty: {', '.join(gaps)}.")
    empty = [roi.label.title for roi in rois if not roi.contours]
    if empty:
        notes.append(f"ROIs without closed contours, kept empty: {', '.join(empty)}.")
    return notes
