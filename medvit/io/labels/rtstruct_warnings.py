"""What reading an RTSTRUCT has to say, in plain words: what was set aside, and what was assumed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from medvit.io.labels.rasterize import RasterizedRoi

__all__ = ["SkippedContours", "flags_of", "notes_of"]


@dataclass
class SkippedContours:
    """What a file holds beside closed contours of its ROIs, counted.

    Attributes:
        shapes: contours of other kinds, by kind.
        thin: closed contours of fewer than three points, by ROI.
        miscounted: contours that do not hold the number of points they state, by ROI.
        strange: contours of no ROI that the file describes.
    """

    shapes: Counter[str] = field(default_factory=Counter)
    thin: Counter[str] = field(default_factory=Counter)
    miscounted: Counter[str] = field(default_factory=Counter)
    strange: int = 0

    def flags(self) -> list[str]:
        """In words."""
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
    """Counts that are not 0, with the ROI's title."""
    return [(title, count) for title, count in zip(titles, counts, strict=True) if count]


def _listed(rows: Iterable[tuple[str, int]]) -> str:
    return ", ".join(title for title, _ in rows)


def flags_of(titles: Sequence[str], filled: Sequence[RasterizedRoi]) -> list[str]:
    """What a person must look at.

    Args:
        titles: of the ROIs.
        filled: what filling each gave.
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
    """What was assumed.

    Args:
        titles: of the ROIs.
        filled: what filling each gave.
        bare: titles of ROIs that have no closed contour.
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
