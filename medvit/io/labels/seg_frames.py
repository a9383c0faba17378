"""Geometry of the frames of a SEG (PS3.3 C.7.6.16.2): an affine for each frame, and the regular grid that they span."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from medvit.errors import GeometryError, SourceError
from medvit.io.dicom.header import FrameGroups, functional_group, shared_groups
from medvit.io.geometry import Affine

__all__ = ["Frame", "native_grid", "read_frames"]

_OFF_SLOT = 0.05
"""Largest distance of a frame from its place in a regular stack, as a share of the slice spacing."""

_SAME_MM = 1e-3
"""Distance along the normal, in millimetres, below which frames belong to one slice."""

_GEOMETRY, _SEGMENT, _SLIDE = (0x00209113, 0x00209116, 0x00289110), (0x0062000A,), 0x0048021A
"""Tags of the groups that place a frame, of the group that names its segment, and of the position in a slide image."""

_MOST_SLICES = 10_000
"""Largest number of slices between the first and last frame; a larger number means a stray frame, not a scan."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Frame:
    """The geometry of one frame.

    Attributes:
        affine: (4, 4), index (column, row, slice) to LPS millimetres; a slice step follows the normal, one spacing long
            if stated.
        shape: (columns, rows, 1).
        segment: number of the frame's segment; None in a label map.
        spacing: SpacingBetweenSlices in mm, 0 where not stated.
        thickness: SliceThickness in mm, 0 where not stated.
    """

    affine: Affine
    shape: tuple[int, int, int]
    segment: int | None
    spacing: float
    thickness: float


def read_frames(dataset: Dataset, name: str) -> list[Frame]:
    """Read the geometry of every frame, in stored order.

    Raises:
        SourceError: the numbers of frames and descriptions differ, or the frames have no position in the patient.
        GeometryError: a position, orientation or spacing is not usable.
    """
    count = int(dataset.get("NumberOfFrames", 1) or 1)
    shared, groups = shared_groups(dataset), FrameGroups(dataset)
    if len(groups) != count:
        raise SourceError(
            f"{name}, a SEG of {count} frames with {len(groups)} descriptions",
            "each frame needs its own description",
            "Export it again.",
        )
    if "PlanePositionSlideSequence" in shared or groups.has(_SLIDE):
        raise SourceError(
            f"{name}, a SEG of a slide image",
            "only labels with a place in the patient can be read",
            "Open it in a pathology viewer.",
        )
    # frames of one slice share the object of their groups, and so one affine
    read = _GroupReader(name, (int(dataset.Columns), int(dataset.Rows), 1))
    made: dict[tuple[int, int], Frame] = {}
    frames = []
    for n in range(count):
        own, named = groups.part(n, _GEOMETRY), groups.part(n, _SEGMENT)
        key = id(own), id(named)
        if key not in made:
            identified = functional_group(shared, named, "SegmentIdentificationSequence")
            number = int(identified.ReferencedSegmentNumber) if identified is not None else None
            made[key] = replace(read.frame(shared, own), segment=number)
        frames.append(made[key])
    return frames


class _GroupReader:
    """Reader of the geometry in functional groups, which converts the numbers of each group only once.

    Args:
        name: name of the file.
        shape: shape of the frames.
    """

    def __init__(self, name: str, shape: tuple[int, int, int]) -> None:
        self._name, self._shape = name, shape
        self._frames: dict[int, Frame] = {}
        self._axes: dict[tuple[int, int], tuple[Affine, float, float]] = {}

    def frame(self, shared: Dataset, own: Dataset) -> Frame:
        """Read the geometry of a frame, without its segment."""
        if id(own) not in self._frames:
            self._frames[id(own)] = self._read(shared, own)
        return self._frames[id(own)]

    def _read(self, shared: Dataset, own: Dataset) -> Frame:
        position, orientation, measures = (
            functional_group(shared, own, k)
            for k in ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence")
        )
        if position is None or orientation is None or measures is None:
            raise SourceError(
                f"{self._name}, a SEG whose frames have no place in the patient, as of an X-ray or a photograph",
                "the SEG of a volume is needed",
                "Open it beside its own image in a DICOM viewer.",
            )
        key = id(orientation), id(measures)
        if key not in self._axes:
            self._axes[key] = _axes(orientation, measures)
        axes, spacing, thickness = self._axes[key]
        affine = np.array(axes)
        affine[:3, 3] = [float(v) for v in position.ImagePositionPatient]
        if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
            raise GeometryError(
                f"{self._name}, a SEG with a frame whose position, orientation or spacing is not a usable number",
                "all must be numbers",
                "Export it again.",
            )
        return Frame(affine=affine, shape=self._shape, segment=None, spacing=abs(spacing), thickness=thickness)


def _axes(orientation: Dataset, measures: Dataset) -> tuple[Affine, float, float]:
    """Return the affine of a frame at the origin, SpacingBetweenSlices and SliceThickness."""
    cosines = np.array([float(v) for v in orientation.ImageOrientationPatient])
    along_row, along_column = cosines[:3], cosines[3:]
    down, across = (float(v) for v in measures.PixelSpacing)
    spacing = float(measures.get("SpacingBetweenSlices") or 0)
    thickness = float(measures.get("SliceThickness") or 0)
    affine = np.eye(4)
    affine[:3, 0] = along_row * across
    affine[:3, 1] = along_column * down
    affine[:3, 2] = np.cross(along_row, along_column) * (abs(spacing) or thickness or 1.0)
    return affine, spacing, thickness


def native_grid(frames: list[Frame]) -> tuple[Affine, tuple[int, int, int], list[str]]:
    """Compute the regular grid that the frames span: its affine, (column, row, slice) index to LPS; its shape; and
    notes.

    Raises:
        GeometryError: the frames have several orientations or pixel sizes, or positions without a regular spacing.
    """
    first = frames[0]
    planes = np.array([frame.affine[:3, :2].ravel() for frame in frames])
    if np.ptp(planes, axis=0).max() > 1e-3:
        raise GeometryError(
            "SEG frames of several orientations or pixel sizes",
            "without a reference they form no grid",
            "Give the series it was drawn on with {like=...}.",
            option="like",
        )
    normal = np.cross(first.affine[:3, 0], first.affine[:3, 1])
    normal /= np.linalg.norm(normal)
    distance = np.array([frame.affine[:3, 3] @ normal for frame in frames])
    order = np.argsort(distance, kind="stable")
    distinct = distance[order][np.append(True, np.diff(distance[order]) > _SAME_MM)]
    step, notes = _step(distinct, first)
    slots = np.rint((distinct - distinct[0]) / step).astype(int)
    count = int(slots[-1]) + 1
    lowest = frames[int(order[0])]
    affine = np.array(lowest.affine)
    # the step spans the stated positions of the first and last frame
    affine[:3, 2] = normal * ((distinct[-1] - distinct[0]) / (count - 1) if count > 1 else step)
    empty = count - len(distinct)
    if empty:
        notes.append(
            f"{empty} of {count} slices between the first and the last have no frame; they were read as empty."
        )
    return affine, (first.shape[0], first.shape[1], count), notes


def _step(distinct: NDArray[np.float64], first: Frame) -> tuple[float, list[str]]:
    """Return the slice spacing in mm: the stated one, the smallest gap or the thickness, the first of these that fits
    all positions.
    """
    gaps = np.diff(distinct)
    stated = first.spacing
    candidates = [(stated, "")] if stated else []
    if len(gaps):
        candidates.append((float(gaps.min()), "the smallest distance between frames"))
    if first.thickness:
        candidates.append((first.thickness, "the slice thickness"))
    for step, source in candidates:
        slots = (distinct - distinct[0]) / step
        if slots[-1] < _MOST_SLICES and np.abs(slots - np.rint(slots)).max() <= _OFF_SLOT * max(1.0, slots[-1] / 100):
            unstated = source and len(gaps)
            notes = [f"The SEG states no usable slice spacing; {step:g} mm, {source}, was taken."] if unstated else []
            return step, notes
    if not candidates:
        raise GeometryError(
            "a SEG of one slice without thickness or spacing",
            "a grid needs slice spacing",
            "Give the series it was drawn on with {like=...}.",
            option="like",
        )
    raise GeometryError(
        f"SEG frames {gaps.min():.2f} to {gaps.max():.2f} mm apart, without an even spacing",
        "without a reference they form no grid",
        "Give the series it was drawn on with {like=...}.",
        option="like",
    )
