"""Messages on reading an RTSTRUCT, in plain words: contours that were set aside, and assumptions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from medvit.io.labels.rasterize import RasterizedRoi

__all__ = ["SkippedContours", "flags_of", "notes_of"]


@dataclass
class SkippedContours:
    """Counts of contours that were set aside or are irregular.

    Attributes:
        shapes: contours that are not closed planar, by type.
        thin: closed contours of fewer than three points, by ROI.
        miscounted: contours whose number of points differs from the stated one, by ROI.
        strange: contours whose ROI the file does not describe.
    """

    shapes: Counter[str] = field(default_factory=Counter)
    thin: Counter[str] = field(default_factory=Counter)
    miscounted: Counter[str] = field(default_factory=Counter)
    strange: int = 0

    def flags(self) -> list[str]:
        """Describe the counts in words."""
        words = [
            f"{count} {shape} contour(s) were set aside; only closed planar ones enclose voxels."
            for shape, count in self.shapes.items()
        ]
        if self.thin:
            words.append(
                f"Closed contours of fewer than three points enclose nothing and were set aside: {_counted(self.thin.items())}."
            )
        if self.miscounted:
            words.append(
                f"Contours do not hold the number of points they state, and were taken as they are: {_counted(self.miscounted.items())}."
            )
        if self.strange:
            words.append(f"{self.strange} contour(s) belong to no ROI that the file describes and were set aside.")
        return words


def _counted(rows: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{title} {count}" for title, count in rows)


def _named(titles: Sequence[str], counts: Sequence[int]) -> list[tuple[str, int]]:
    """Pair ROI titles with their counts; leave out counts of 0."""
    return [(title, count) for title, count in zip(titles, counts, strict=True) if count]


def _listed(rows: Iterable[tuple[str, int]]) -> str:
    return ", ".join(title for title, _ in rows)


def flags_of(titles: Sequence[str], filled: Sequence[RasterizedRoi]) -> list[str]:
    """Describe findings that a person must check.

    Args:
        titles: titles of the ROIs.
        filled: the filled mask of each ROI.
    """
    flags = []
    if off := _named(titles, [found.off for found in filled]):
        flags.append(f"Contours beyond the reference's slices were set aside: {_counted(off)}.")
    if cut := _named(titles, [found.cut for found in filled]):
        flags.append(f"Contours reach beyond the edge of the reference's slices and were cut: {_listed(cut)}.")
    if bent := _named(titles, [found.bent for found in filled]):
        flags.append(f"Contours that are not flat were set aside: {_counted(bent)}.")
    if crossing := _named(titles, [found.crossing for found in filled]):
        flags.append(f"Contours of one slice cross; what they share was taken as part of the ROI: {_listed(crossing)}.")
    return flags


def notes_of(titles: Sequence[str], filled: Sequence[RasterizedRoi], bare: Sequence[str]) -> list[str]:
    """Describe assumptions.

    Args:
        titles: titles of the ROIs.
        filled: the filled mask of each ROI.
        bare: titles of ROIs without a closed contour.
    """
    notes = []
    if between := _named(titles, [found.between for found in filled]):
        notes.append(
            f"Contours lie between the reference's slices; each stands for the slab around it: {_listed(between)}."
        )
    if gaps := _named(titles, [found.gaps for found in filled]):
        notes.append(f"Slices without a contour between an ROI's first and last, kept empty: {_counted(gaps)}.")
    if twice := _named(titles, [found.twice for found in filled]):
        notes.append(f"Contours that stand in the file more than once were taken once: {_counted(twice)}.")
    if bare:
        notes.append(f"ROIs without closed contours, kept empty: {', '.join(bare)}.")
    return notes
