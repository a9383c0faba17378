"""What reading labels gives: one mask a segment, on one grid, with what its file says of it.

Masks are kept cut to their box, so a hundred segments of a large scan fit in memory, and apart from each other, so
that segments which overlap (PS3.3 C.8.20.2, Segments Overlap) lose nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from medvit.errors import OutputError
from medvit.io.dicom.write import SegmentOrigin
from medvit.io.geometry import Affine
from medvit.io.scan import Scan
from medvit.labels import Label

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Box", "Grid", "LabelMask", "LabelSet"]


class Box(TypedDict):
    """Where a mask begins, and the mask cut to its box."""

    start: tuple[int, int, int]
    voxels: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Grid:
    """Where voxels lie: (i, j, k) counts and voxel index to RAS+ millimetres."""

    shape: tuple[int, int, int]
    affine: Affine

    @classmethod
    def of(cls, scan: Scan) -> Grid:
        """The grid of an opened image."""
        i, j, k = scan.array.shape[1:]
        return cls((i, j, k), scan.affine)


@dataclass(frozen=True, eq=False)
class LabelMask:
    """One mask with its label.

    Attributes:
        label: id, name, title, colour and codes.
        start: (i, j, k) of the first voxel of ``voxels`` on the grid.
        voxels: bool, (i, j, k), the mask cut to its box; of size 0 for a segment without voxels.
        origin: how it came about.
    """

    label: Label
    start: tuple[int, int, int]
    voxels: NDArray[np.bool_]
    origin: SegmentOrigin = SegmentOrigin()

    def __repr__(self) -> str:
        return f"LabelMask({self.label.name}, {int(self.voxels.sum())} voxels)"

    @property
    def box(self) -> tuple[slice, slice, slice]:
        """Where ``voxels`` lie on the grid."""
        i, j, k = (slice(a, a + n) for a, n in zip(self.start, self.voxels.shape, strict=True))
        return i, j, k

    def overlap(self, other: LabelMask) -> int:
        """How many voxels two segments share."""
        low = np.maximum(self.start, other.start)
        high = np.minimum(np.add(self.start, self.voxels.shape), np.add(other.start, other.voxels.shape))
        if (high <= low).any():
            return 0

        def cut(segment: LabelMask) -> NDArray[np.bool_]:
            ends = zip(low - segment.start, high - segment.start, strict=True)
            return segment.voxels[tuple(slice(int(a), int(b)) for a, b in ends)]

        return int((cut(self) & cut(other)).sum())


@dataclass(frozen=True, eq=False)
class LabelSet:
    """Segments on one grid.

    Attributes:
        segments: in the order of their file.
        grid: of all masks.
        kind: "seg", "rtstruct", "nifti", "nrrd", "metaimage" or "array".
        frame: FrameOfReferenceUID, empty where the file states none.
        series: UIDs of the image series the file refers to.
        reference: the image whose grid this is, where one was given or found.
        header: a NIfTI source's header, so that its codes and units are kept.
        notes: what was assumed or resampled, in plain words.
        flags: what was set aside or does not fit; a person must look.
        masks_on_slices: for labels drawn on the slices of a tilted or uneven stack, start and voxels of each segment there,
            (column, row, slice); ``segments`` then hold what of them lies on the true grid.
    """

    segments: tuple[LabelMask, ...]
    grid: Grid
    kind: str
    frame: str = ""
    series: tuple[str, ...] = ()
    reference: Scan | None = None
    header: Any = None
    notes: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    masks_on_slices: tuple[tuple[tuple[int, int, int], NDArray[np.bool_]], ...] = ()

    def __repr__(self) -> str:
        names = ", ".join(label.name for label in self.labels)
        return f"LabelSet({self.kind}, {' x '.join(map(str, self.shape))}: {names or 'no segments'})"

    @property
    def labels(self) -> tuple[Label, ...]:
        """The label of each segment."""
        return tuple(segment.label for segment in self.segments)

    @property
    def affine(self) -> Affine:
        """Voxel index to RAS+ millimetres, 4x4."""
        return self.grid.affine

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along i, j, k."""
        return self.grid.shape

    def mask(self, name: str | int) -> NDArray[np.bool_]:
        """One segment on the whole grid, (i, j, k) bool.

        Args:
            name: the label's name or id.

        Raises:
            KeyError: no such segment.
        """
        for segment in self.segments:
            if name in (segment.label.name, segment.label.id):
                return self.whole(segment)
        raise KeyError(name)

    def whole(self, segment: LabelMask) -> NDArray[np.bool_]:
        """A segment's mask on the whole grid, (i, j, k)."""
        mask = np.zeros(self.shape, dtype=bool)
        mask[segment.box] = segment.voxels
        return mask

    @cached_property
    def overlaps(self) -> tuple[tuple[str, str, int], ...]:
        """Names of segments that share voxels, and how many."""
        seen = np.zeros(self.shape, dtype=bool)
        for segment in self.segments:
            if (seen[segment.box] & segment.voxels).any():
                break
            seen[segment.box] |= segment.voxels
        else:
            return ()  # the usual case, known without comparing each with each
        pairs = itertools.combinations(self.segments, 2)
        shared = ((a.label.name, b.label.name, a.overlap(b)) for a, b in pairs)
        return tuple(row for row in shared if row[2])

    @property
    def array(self) -> NDArray[np.unsignedinteger[Any]]:
        """All segments as one label map, (i, j, k), uint8 or uint16, 0 where there is none.

        Raises:
            OutputError: segments overlap; a label map holds one value a voxel.
        """
        if self.overlaps:
            first, second, count = self.overlaps[0]
            more = f" (and {len(self.overlaps) - 1} more pairs)" if len(self.overlaps) > 1 else ""
            raise OutputError(
                f"Found {first} and {second} sharing {count} voxels{more}; a label map holds one label a voxel, and none is "
                "written over another. Write one file each with --per-label, or keep dicom-seg or rtstruct."
            )
        largest = max((label.id for label in self.labels), default=0)
        array = np.zeros(self.shape, np.uint8 if largest < 256 else np.uint16)
        for segment in self.segments:
            array[segment.box][segment.voxels] = segment.label.id
        return array

    @property
    def scan(self) -> Scan:
        """The image on whose grid writers put the labels; without pixels where none was given."""
        if self.reference is not None:
            return self.reference
        return Scan(np.zeros((1, 0, 0, 0), np.float32), self.affine, self.kind, header=self.header)

    def present(self) -> tuple[LabelMask, ...]:
        """The segments that have voxels."""
        return tuple(segment for segment in self.segments if segment.voxels.any())

    def with_notes(self, *notes: str, flags: Sequence[str] = ()) -> LabelSet:
        """The same with more notes and flags."""
        return replace(self, notes=(*self.notes, *notes), flags=(*self.flags, *flags))
