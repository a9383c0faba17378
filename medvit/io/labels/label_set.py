"""Labels that were read: one mask for each segment, on one grid, with the metadata of its file.

Masks are cut to their bounding box, so that a hundred segments of a large scan fit in memory. They are stored
separately, so that overlapping segments (PS3.3 C.8.20.2, Segments Overlap) stay complete.
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
    """Start of a mask on its grid, and the mask cut to its bounding box."""

    start: tuple[int, int, int]
    voxels: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Grid:
    """The grid of voxels.

    Attributes:
        shape: number of voxels (i, j, k).
        affine: (4, 4), voxel index to RAS+ millimetres.
    """

    shape: tuple[int, int, int]
    affine: Affine

    @classmethod
    def of(cls, scan: Scan) -> Grid:
        """Return the grid of an opened image."""
        i, j, k = scan.array.shape[1:]
        return cls((i, j, k), scan.affine)


@dataclass(frozen=True, eq=False)
class LabelMask:
    """One mask with its label.

    Attributes:
        label: id, name, title, colour and codes.
        start: (i, j, k) of the first voxel of ``voxels`` on the grid.
        voxels: bool, (i, j, k), the mask cut to its bounding box; of size 0 for a segment without voxels.
        origin: origin of the segment, as its file states it.
    """

    label: Label
    start: tuple[int, int, int]
    voxels: NDArray[np.bool_]
    origin: SegmentOrigin = SegmentOrigin()

    def __repr__(self) -> str:
        return f"LabelMask({self.label.name}, {int(self.voxels.sum())} voxels)"

    @property
    def box(self) -> tuple[slice, slice, slice]:
        """Slices of ``voxels`` on the grid."""
        i, j, k = (slice(a, a + n) for a, n in zip(self.start, self.voxels.shape, strict=True))
        return i, j, k

    def overlap(self, other: LabelMask) -> int:
        """Count the voxels that two segments share."""
        low = np.maximum(self.start, other.start)
        high = np.minimum(np.add(self.start, self.voxels.shape), np.add(other.start, other.voxels.shape))
        if (high <= low).any():
            return 0

        def cut(segment: LabelMask) -> NDArray[np.bool_]:
            ends = zip(low - segment.start, high - segment.start, strict=True)
            return segment.voxels[tuple(slice(int(a), int(b)) for a, b in ends)]

        return int((cut(self) & cut(other)).sum())


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelSet:
    """Segments on one grid.

    Attributes:
        segments: in the order of their file.
        grid: the grid of all masks.
        kind: "seg", "rtstruct", "nifti", "nrrd", "metaimage" or "array".
        frame: FrameOfReferenceUID; empty where the file states none.
        series: UIDs of the image series that the file refers to.
        reference: the image whose grid this is, where one was given or found.
        header: the header of a NIfTI source, so that its codes and units are kept.
        notes: assumptions and resampling, in plain words.
        flags: findings that a person must check: parts set aside, or contradictions.
        masks_on_slices: for labels drawn on the slices of a tilted or uneven stack, start and voxels of each segment on
            them, (column, row, slice); ``segments`` then hold the masks resampled to the regular grid.
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
        """Labels of the segments, in their order."""
        return tuple(segment.label for segment in self.segments)

    @property
    def affine(self) -> Affine:
        """(4, 4), voxel index to RAS+ millimetres."""
        return self.grid.affine

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along i, j, k."""
        return self.grid.shape

    def mask(self, name: str | int) -> NDArray[np.bool_]:
        """Return the mask of one segment on the whole grid, (i, j, k) bool.

        Args:
            name: the label's name or id.

        Raises:
            KeyError: there is no such segment.
        """
        for segment in self.segments:
            if name in (segment.label.name, segment.label.id):
                return self.whole(segment)
        raise KeyError(name)

    def whole(self, segment: LabelMask) -> NDArray[np.bool_]:
        """Return a segment's mask on the whole grid, (i, j, k)."""
        mask = np.zeros(self.shape, dtype=bool)
        mask[segment.box] = segment.voxels
        return mask

    @cached_property
    def overlaps(self) -> tuple[tuple[str, str, int], ...]:
        """Pairs of segment names that share voxels, with the number of these voxels."""
        seen = np.zeros(self.shape, dtype=bool)
        for segment in self.segments:
            if (seen[segment.box] & segment.voxels).any():
                break
            seen[segment.box] |= segment.voxels
        else:
            return ()  # the usual case, found without comparing all pairs
        pairs = itertools.combinations(self.segments, 2)
        shared = ((a.label.name, b.label.name, a.overlap(b)) for a, b in pairs)
        return tuple(row for row in shared if row[2])

    @property
    def array(self) -> NDArray[np.unsignedinteger[Any]]:
        """All segments as one label map, (i, j, k), uint8 or uint16, 0 for background.

        Raises:
            OutputError: segments overlap; a label map holds only one value in each voxel.
        """
        if self.overlaps:
            first, second, count = self.overlaps[0]
            more = f" (and {len(self.overlaps) - 1} more pairs)" if len(self.overlaps) > 1 else ""
            raise OutputError(
                f"{first} and {second} sharing {count} voxels{more}",
                "a label map holds one label a voxel, and none is written over another",
                "Write one file each with {per_label=True}, or keep dicom-seg or rtstruct.",
                option="per_label",
            )
        largest = max((label.id for label in self.labels), default=0)
        array = np.zeros(self.shape, np.uint8 if largest < 256 else np.uint16)
        for segment in self.segments:
            array[segment.box][segment.voxels] = segment.label.id
        return array

    @property
    def scan(self) -> Scan:
        """The image on whose grid writers place the labels; without pixels where no reference exists."""
        if self.reference is not None:
            return self.reference
        return Scan(array=np.zeros((1, 0, 0, 0), np.float32), affine=self.affine, kind=self.kind, header=self.header)

    def present(self) -> tuple[LabelMask, ...]:
        """Return the segments that have voxels."""
        return tuple(segment for segment in self.segments if segment.voxels.any())

    def with_notes(self, *notes: str, flags: Sequence[str] = ()) -> LabelSet:
        """Return a copy with additional notes and flags."""
        return replace(self, notes=(*self.notes, *notes), flags=(*self.flags, *flags))
