"""Reader of DICOM Segmentations (PS3.3 A.51 and A.88): BINARY, FRACTIONAL and LABELMAP, placed by their stated
positions.

medvit keeps this reader beside highdicom's because it reads one frame at a time, so that a SEG of a hundred segments fits in
memory, and because it flags what is wrong in a SEG, such as pixels of a segment without a description, and reads the rest.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from pydicom import Dataset

from medvit.errors import GeometryError, SourceError
from medvit.io.dicom.write import SegmentOrigin
from medvit.io.geometry import Affine, check_affine, flip_lps_ras, spacing_mm
from medvit.io.labels.dicom_objects import check_frame, dicom_errors_as_source_errors, drawn_on, open_object, series_of
from medvit.io.labels.grid_mapping import GridMapping, MaskBuilder, clipped_labels_note, exact_mapping, resample_to
from medvit.io.labels.label_set import Grid, LabelMask, LabelSet
from medvit.io.labels.names import code_of, make_label, unique
from medvit.io.labels.seg_frames import Frame, native_grid, read_frames
from medvit.io.labels.seg_pixels import frame_pixels
from medvit.io.labels.stack_labels import frames_on_slices, onto_grid, slice_index_grid
from medvit.io.memory_limits import check_image_memory
from medvit.io.scan import Scan
from medvit.labels import Label

__all__ = ["read_seg"]

_SOP_CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
"""Segmentation Storage and Label Map Segmentation Storage."""


_BACKGROUND = "125040"
"""DICOM's code for background as a segment's type."""

_SAME_DEPTH = 0.01
"""Largest difference, as a share, between a frame's thickness and a voxel's side that counts as equal."""


_Mapping = TypeVar("_Mapping", bound=GridMapping | None)


@dataclass(frozen=True)
class _Described:
    """Items of SegmentSequence, without background, by segment number."""

    labels: dict[int, Label]
    origins: dict[int, SegmentOrigin]


def read_seg(path: Path, like: Scan | None = None, threshold: float = 0.5, force: bool = False) -> LabelSet:
    """Read a Segmentation of any kind as masks on a grid.

    Frames are placed by Plane Position, Plane Orientation and Pixel Measures, never by their order. Without a
    reference, the grid is the regular one that the frames span, including slices omitted as empty.

    Args:
        path: the file.
        like: the image on whose grid to place the labels.
        threshold: for FRACTIONAL ones, the smallest share of MaximumFractionalValue that belongs to a segment, 0..1.
        force: True to accept a reference with another frame of reference.

    Raises:
        SourceError: the file is not a Segmentation, is damaged, or uses 2-D image coordinates.
        GeometryError: the frames form no regular grid, or none of them lies on the reference.
    """
    dataset = open_object(path)
    with dicom_errors_as_source_errors(path.name, "a SEG"):
        _require_seg(dataset, path.name)
        described = _describe(dataset, path.name)
        frames = read_frames(dataset, path.name)
        series = series_of(dataset)
        frame = str(dataset.get("FrameOfReferenceUID", "") or "")
        flags = check_frame((frame, series), like, force)
        placed = _place(frames, like, series)
        grid, notes = placed.grid, placed.notes
        check_image_memory(grid.shape, "a SEG")
        gathered = _gather(dataset, frames, placed.lattices, grid, threshold)
        masks = gathered.masks
    segments = [
        LabelMask(label, *masks[n].gather() if n in masks else MaskBuilder(grid.shape).gather(), described.origins[n])
        for n, label in described.labels.items()
    ]
    flags += gathered.flags(described.labels, threshold)
    notes += gathered.notes(described.labels)
    found = LabelSet(
        segments=tuple(segments),
        grid=grid,
        kind="seg",
        frame=frame,
        series=series,
        reference=like,
        notes=tuple(notes),
        flags=tuple(flags),
    )
    if like is not None and placed.own:
        return resample_to(found, Grid.of(like))
    lost = {described.labels[n].name: m.lost for n, m in masks.items() if m.lost and n in described.labels}
    if lost and not any(m.kept for m in masks.values()):
        raise GeometryError(
            "no frame of the SEG on the reference's grid",
            "its frames lie elsewhere in space",
            "Give the series it was drawn on with {like=...}.",
            option="like",
        )
    found = found.with_notes(flags=list(clipped_labels_note(lost)))
    return onto_grid(found, like) if like is not None and placed.on_slices else found


def _require_seg(dataset: Dataset, name: str) -> None:
    if str(dataset.get("SOPClassUID", "")) not in _SOP_CLASSES:
        what = dataset.get("Modality", "") or "unknown"
        raise SourceError(
            f"{name}, a DICOM object of modality {what}",
            "a Segmentation (SEG) is needed",
            "To give an image as the grid, use {like}.",
            option="like",
        )
    if not dataset.get("SegmentSequence"):
        raise SourceError(f"{name}, a SEG without SegmentSequence", "it must describe its segments", "Export it again.")
    if "PixelData" not in dataset:
        raise SourceError(f"{name}, a SEG without pixels", "it holds no mask", "Export it again.")


def _describe(dataset: Dataset, name: str) -> _Described:
    import highdicom as hd

    numbers, labels, origins = [], [], {}
    background = _background(dataset)
    free = 1 + max(int(item.SegmentNumber) for item in dataset.SegmentSequence)
    for item in dataset.SegmentSequence:
        number = int(item.SegmentNumber)
        if number in background:
            continue  # a label map may describe its background (PS3.3 C.8.20.2.3.3)
        color = None
        stored = item.get("RecommendedDisplayCIELabValue") or []
        if len(stored) == 3:
            color = hd.color.CIELabColor.from_dicom_value([int(v) for v in stored]).to_rgb()
        kinds = item.get("SegmentedPropertyTypeCodeSequence") or [Dataset()]
        sides = kinds[0].get("SegmentedPropertyTypeModifierCodeSequence") or [Dataset()]
        category = (item.get("SegmentedPropertyCategoryCodeSequence") or [Dataset()])[0]
        title = str(item.get("SegmentLabel") or item.get("SegmentDescription") or "")
        codes = (code_of(category), code_of(kinds[0]), code_of(sides[0]))
        labels.append(make_label(number or free, title, color, codes))  # a label id is above 0
        if number in numbers:
            raise SourceError(
                f"{name}, a SEG with two segments of the number {number}", "numbers must be unique", "Export it again."
            )
        numbers.append(number)
        origins[number] = SegmentOrigin(
            algorithm_type=str(item.get("SegmentAlgorithmType") or ""),
            algorithm_name=str(item.get("SegmentAlgorithmName") or ""),
            tracking_id=str(item.get("TrackingID") or ""),
            tracking_uid=str(item.get("TrackingUID") or ""),
        )
    return _Described(dict(zip(numbers, unique(labels), strict=True)), origins)


def _background(dataset: Dataset) -> set[int]:
    """Return the stored values that belong to no label.

    In a label map these are PixelPaddingValue, with or without a description, and 0. The value 0 is a label only where
    PixelPaddingValue is another value and a segment numbered 0 is of another type than background (PS3.3 C.8.20.2.3.3).
    """
    if dataset.SegmentationType != "LABELMAP":
        return {0}
    padding = int(dataset.get("PixelPaddingValue") or 0)
    zero = [item for item in dataset.SegmentSequence if int(item.SegmentNumber) == 0]
    kinds = [(item.get("SegmentedPropertyTypeCodeSequence") or [Dataset()])[0].get("CodeValue") for item in zero]
    own = padding != 0 and any(kind != _BACKGROUND for kind in kinds)
    return {padding} if own else {0, padding}


@dataclass(frozen=True, kw_only=True)
class _Placed:
    """Grid and position of frames.

    Attributes:
        grid: the reference's grid, the slices of an irregular stack (``slice_index_grid``), or the frames' own grid.
        lattices: mapping of each frame to the grid.
        own: True for the frames' own grid.
        on_slices: True for ``slice_index_grid``.
        notes: assumptions.
    """

    grid: Grid
    lattices: list[GridMapping]
    own: bool = False
    on_slices: bool = False
    notes: list[str] = field(default_factory=list)


def _place(frames: list[Frame], like: Scan | None, series: tuple[str, ...]) -> _Placed:
    """Place the frames on the reference's slices or grid where all of them fit, else on their own grid."""
    if like is not None and like.original is not None:
        on_slices = frames_on_slices(frames, like.original)
        if on_slices is not None:
            return _Placed(grid=slice_index_grid(like.original), lattices=on_slices, on_slices=True)
    if like is not None:
        grid = Grid.of(like)
        inverse = np.linalg.inv(grid.affine)
        placed = _for_each_slice(
            frames, lambda frame: exact_mapping(inverse @ flip_lps_ras(frame.affine), frame.shape, flat=True)
        )
        fitting = [lattice for lattice in placed if lattice is not None]
        if len(fitting) == len(frames) and (drawn_on(like, series) or _as_deep(frames, fitting, grid)):
            return _Placed(grid=grid, lattices=fitting)
    lps, shape, notes = native_grid(frames)
    affine = flip_lps_ras(lps)
    check_affine(affine)
    return _Placed(
        grid=Grid(shape, affine),
        lattices=_for_each_slice(frames, lambda frame: _own(lps, frame)),
        own=True,
        notes=notes,
    )


def _for_each_slice(frames: list[Frame], place: Callable[[Frame], _Mapping]) -> list[_Mapping]:
    """Return the value of each frame, computed once for the frames of a slice, which share one affine."""
    made: dict[int, _Mapping] = {}
    for frame in frames:
        if id(frame.affine) not in made:
            made[id(frame.affine)] = place(frame)
    return [made[id(frame.affine)] for frame in frames]


def _as_deep(frames: list[Frame], lattices: list[GridMapping], grid: Grid) -> bool:
    """Return True if frames are as thick as the grid's voxels; on a finer grid one frame would cover several slices."""
    sides = spacing_mm(grid.affine)
    return all(
        abs(sides[lattice.axes[2]] / (frame.spacing or frame.thickness or np.inf) - 1) < _SAME_DEPTH
        for frame, lattice in zip(frames, lattices, strict=True)
    )


def _own(lps: Affine, frame: Frame) -> GridMapping:
    lattice = exact_mapping(np.linalg.inv(lps) @ frame.affine, frame.shape, flat=True)
    if lattice is None:
        raise GeometryError(
            f"a SEG frame at {np.round(frame.affine[:3, 3], 2).tolist()} mm, off the regular grid of the others",
            "frames must be stacked straight",
            "Give the series it was drawn on with {like=...}.",
            option="like",
        )
    return lattice


@dataclass
class _Gathered:
    """Masks and findings from the pixels.

    Attributes:
        masks: masks by segment number.
        strays: values in a label map that belong to no segment.
        highest: for a fractional one, the largest share of the maximum in each segment.
        said: assumptions.
    """

    masks: dict[int, MaskBuilder]
    strays: set[int] = field(default_factory=set)
    highest: dict[int, float] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)

    def flags(self, labels: Mapping[int, Label], threshold: float) -> list[str]:
        """Return findings that a person must check."""
        flags = [
            f"No voxel of {labels[n].name} reaches {threshold:g} of the maximum (the highest has {share:.3g}); it is empty."
            for n, share in self.highest.items()
            if n in labels and share < threshold and not (self.masks[n].kept or self.masks[n].lost)
        ]
        undescribed = sorted((set(self.masks) | self.strays) - set(labels))
        if undescribed:
            named = ", ".join(map(str, undescribed))
            flags.append(f"Segment numbers {named} have pixels but no description; they were left out.")
        return flags

    def notes(self, labels: Mapping[int, Label]) -> list[str]:
        """Return assumptions, and the segments without a voxel."""
        bare = [
            label.name
            for n, label in labels.items()
            if self.highest.get(n, 0) == 0 and not (n in self.masks and (self.masks[n].kept or self.masks[n].lost))
        ]
        return [*self.said, *([f"Segments without a voxel, kept empty: {', '.join(bare)}."] if bare else [])]


def _gather(
    dataset: Dataset, frames: list[Frame], lattices: list[GridMapping], grid: Grid, threshold: float
) -> _Gathered:
    masks: dict[int, MaskBuilder] = defaultdict(lambda: MaskBuilder(grid.shape))
    found, kind = _Gathered(masks), str(dataset.SegmentationType)
    background = _background(dataset)
    described = {int(item.SegmentNumber) for item in dataset.SegmentSequence} - background
    if any(background):
        found.said.append(f"The pixel padding value {max(background)} was read as no label.")
    if kind == "LABELMAP" and 0 in described:
        said = "The segment with the number 0 is not the background; its label has the next free id."
        found.said.append(said)
    limit = largest = 1.0
    if kind == "FRACTIONAL":
        largest = float(dataset.MaximumFractionalValue)
        limit = round(threshold * largest, 6)  # so that 0.07 of 100 is exactly 7
        found.said.append(
            f"A fractional segmentation ({str(dataset.SegmentationFractionalType).lower()}): voxels from {threshold:g} of its "
            "maximum on were taken."
        )
    for frame, lattice, (start, pixels) in zip(frames, lattices, frame_pixels(dataset, len(frames)), strict=True):
        flat = pixels.T  # (row, column) as stored to (column, row)
        if kind == "LABELMAP":
            for number in np.unique(flat).tolist():
                if number in background:
                    continue
                if number in described:
                    masks[number].add(*lattice.move(start, (flat == number)[:, :, None]))
                else:
                    found.strays.add(number)
        else:
            if frame.segment is None:
                raise SourceError("a SEG frame without a segment number", "each must have one", "Export it again.")
            if kind == "FRACTIONAL":
                share = float(flat.max(initial=0)) / largest
                found.highest[frame.segment] = max(share, found.highest.get(frame.segment, 0.0))
            masks[frame.segment].add(*lattice.move(start, (flat >= limit)[:, :, None]))
    return found
