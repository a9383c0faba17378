"""Refinement of labels by clicks and scribbles: which voxels around a stroke change.

The labels as they are, a network's answer or an annotator's edit, are the prior; a click is evidence against them at one voxel. An
error mostly lies along a border, between where the label ends and where it should end, and a click falls into its middle. So the
click's distance to the nearest voxel that already has its label tells how thick the error is, and the border moves past the click by
about as much again, less the farther from the click and the less alike the intensities are. Where the image shows a spot around
the click with an edge of its own, the spot is what changes. How many voxels one click changes is bounded: a click that was
misunderstood costs its label little, one that was understood can be repeated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medvit_label.inference.strokes import Strokes

__all__ = ["Refinement", "refine_labels"]

_ERROR_DEPTHS = 2.0
"""Shift of the border nearest a click, in distances between click and border: a click lies in the middle of an error."""

_WIDTH = 2.5
"""Standard deviation, in the same distances, with which that falls off away from the click."""

_REACH = 4.0
"""Nothing changes farther from a click than this many of the same distances and one voxel."""

_BALLS = 8.0
"""Voxels that may change, in balls around the click that reach to the border."""

_SHARE, _SPOT_SHARE = 0.008, 0.02
"""Voxels that may change, as a share of the label's; the second where the image shows a spot with an edge of its own."""

_SPOT_EDGE = 6.0
"""Least difference between the inside of a spot and the ring around it, in standard errors (Welch's t)."""

_NEW_VOXELS = 3
"""Radius, in voxels, within which a label changes that is nowhere near the click yet."""

_HALF = {2: 96, 3: 28}
"""Half the side of the box that is looked at, in voxels of the shortest side, by the image's dimensions."""

_ENOUGH = 50
"""Voxels of a label that tell which intensities it has."""

_Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Refinement:
    """Labels after strokes.

    Attributes:
        ids: the labels; the array that was given where no voxel changed.
        notes: what was set aside or taken otherwise than drawn, for the answer and the record.
    """

    ids: NDArray[np.integer]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Region:
    """A stroke and the box around it that is looked at.

    Attributes:
        image: intensities.
        ids: labels as they are.
        open: where voxels have the label that the stroke changes, and no stroke of another label lies on them.
        seeds: the stroke's voxels.
        label: what the stroke says.
        spacing: voxel sides in mm.
        total: voxels of the stroke's label in the whole image.
        old_total: voxels of the label that the stroke changes.
    """

    image: NDArray[np.float32]
    ids: NDArray[np.integer]
    open: _Mask
    seeds: _Mask
    label: int
    spacing: tuple[float, ...]
    total: int
    old_total: int

    @property
    def budgeted(self) -> int:
        """Voxels of the smaller of both labels, background aside; 0 where the stroke's label is new."""
        if self.label == 0:
            return self.old_total
        return min(self.total, self.old_total) if self.old else self.total

    @property
    def old(self) -> int:
        """The label that the stroke changes."""
        return int(self.ids[self.seeds][0])


def refine_labels(
    image: NDArray[np.float32], before: NDArray[np.integer], strokes: Strokes, spacing_mm: Sequence[float]
) -> Refinement:
    """Take strokes into labels; each changes voxels near it that are connected to it and have the label it was drawn on.

    Strokes that agree with the labels change nothing.

    Args:
        image: intensities, (i, j, k) or (row, column).
        before: label ids on the same grid: a network's answer, or labels edited since.
        strokes: what was drawn.
        spacing_mm: voxel sides.
    """
    after, notes = before, list(strokes.notes)
    spacing = tuple(float(side) for side in spacing_mm)
    for place, label, seeds in _wrong_strokes(before, strokes.ids):
        box = _around(place, before.shape, spacing)
        inner = tuple(slice(p.start - b.start, p.stop - b.start) for p, b in zip(place, box, strict=True))
        own = np.zeros(tuple(side.stop - side.start for side in box), bool)
        own[inner] = seeds
        own &= after[box] != label  # an earlier stroke may have reached it
        if not own.any():
            continue
        old = int(after[box][own][0])
        drawn, (total, old_total) = strokes.ids[box], (int(np.count_nonzero(after == n)) for n in (label, old))
        free = (after[box] == old) & ((drawn < 0) | (drawn == label))
        region = _Region(
            image=image[box],
            ids=after[box],
            open=free,
            seeds=own,
            label=label,
            spacing=spacing,
            total=total,
            old_total=old_total,
        )
        changed = own if _unlike(region) else _connected(_bounded(region), own)
        if changed is own:
            notes.append(_unlike_note(place, strokes.names.get(label, str(label))))
        after = after.copy() if after is before else after
        after[box][changed | own] = label
    return Refinement(after, tuple(dict.fromkeys(notes)))


def _wrong_strokes(
    before: NDArray[np.integer], drawn: NDArray[np.int16]
) -> Iterator[tuple[tuple[slice, ...], int, _Mask]]:
    """Connected strokes where they contradict the labels: the box of each, its label, its voxels in the box."""
    wrong = (drawn >= 0) & (drawn != before)
    whole = next(iter(ndimage.find_objects(wrong.astype(np.uint8))), None)
    if whole is None:
        return
    wrong, old, new = wrong[whole], before[whole].copy(), drawn[whole]
    for label, changed in np.unique(np.stack([new[wrong], old[wrong]]), axis=1).T.tolist():
        same = wrong & (new == label) & (old == changed)
        numbered, _ = ndimage.label(same, np.ones((3,) * drawn.ndim))
        for number, found in enumerate(ndimage.find_objects(numbered), 1):
            place = tuple(slice(s.start + w.start, s.stop + w.start) for s, w in zip(found, whole, strict=True))
            yield place, label, numbered[found] == number


def _around(place: tuple[slice, ...], shape: tuple[int, ...], spacing: tuple[float, ...]) -> tuple[slice, ...]:
    """Return the box to search around a stroke's box."""
    reach = _HALF[len(shape)] * min(spacing)
    far = [max(4, round(reach / side)) for side in spacing]
    return tuple(
        slice(max(0, p.start - f), min(size, p.stop + f)) for p, f, size in zip(place, far, shape, strict=True)
    )


def _bounded(region: _Region) -> _Mask:
    """Return the voxels around a stroke that are to take its label."""
    spacing, seeds, free = region.spacing, region.seeds, region.open
    step = min(spacing)
    away: NDArray[np.float64] = ndimage.distance_transform_edt(~seeds, sampling=spacing)
    piece = _small_piece(region, away)
    if piece is not None:
        return piece
    same = region.ids == region.label
    to_label = ndimage.distance_transform_edt(~same, sampling=spacing) if same.any() else np.full(same.shape, np.inf)
    depth = np.maximum(to_label - step / 2, 0)
    thickest = _thickest(region)
    thick = max(min(float(depth[seeds].max()), thickest), step / 2)
    spot = _spot_radius(region.image, free, away, thick, step)
    attached = spot is None and float(depth[seeds].max()) <= thickest
    thick = thick if spot is None else spot
    follows = np.exp(-0.5 * (away / (_WIDTH * thick)) ** 2) * _alike(region, away, thick)
    moved = (depth if attached else away) < (_ERROR_DEPTHS if attached else 1.0) * thick * follows
    if spot is not None:
        moved = away <= spot
    moved = _connected(free & moved & (away <= _REACH * thick + step), seeds)
    most = _BALLS * np.count_nonzero(free & (away <= thick))
    if region.budgeted:
        share = _SHARE if spot is None else _SPOT_SHARE
        most = min(most, share * region.budgeted * np.count_nonzero(seeds))
    count = max(1, int(most))
    if np.count_nonzero(moved) > count:
        moved &= away <= np.partition(away[moved], count - 1)[count - 1]
    return moved


def _small_piece(region: _Region, away: NDArray[np.float64]) -> _Mask | None:
    """Return a whole roundish piece of a label with the stroke in its middle, if most of the label is elsewhere; else None."""
    if region.old == 0:
        return None
    piece, step = _connected(region.open, region.seeds), min(region.spacing)
    farthest = float(away[piece].max())
    if np.count_nonzero(piece) > region.old_total / 2 or farthest >= (_HALF[piece.ndim] - 1) * step:
        return None
    inside = ndimage.distance_transform_edt(np.pad(piece, 1), sampling=region.spacing)[(slice(1, -1),) * piece.ndim]
    return piece if farthest <= 2 * max(float(inside[region.seeds].max()), step) else None


def _thickest(region: _Region) -> float:
    """Measure half the thickness of the label nearby, in mm: a missing part of it is no thicker."""
    own = region.ids == (region.label or region.old)
    if not own.any():
        return _NEW_VOXELS * min(region.spacing)
    return float(ndimage.distance_transform_edt(np.pad(own, 1), sampling=region.spacing).max())


def _spot_radius(
    image: NDArray[np.float32], free: _Mask, away: NDArray[np.float64], thick: float, step: float
) -> float | None:
    """Measure a spot around the stroke with an edge in the image, in mm; None without an edge well before the border."""
    within = free & (away <= thick + 3 * step)
    order = np.argsort(away[within], kind="stable")
    distance, values = away[within][order], image[within][order].astype(np.float64)
    sums, squares = (np.concatenate([[0.0], np.cumsum(v)]) for v in (values, values**2))
    radii = np.arange(1.01 * step, thick + 0.99 * step, step)
    edges = []
    for radius in radii:
        first, last = np.searchsorted(distance, [radius, radius + 2 * step], side="right")
        edges.append(_edge(sums, squares, int(first), int(last)))
    for number, (radius, edge) in enumerate(zip(radii, edges, strict=True)):
        if edge >= _SPOT_EDGE and (number + 1 == len(edges) or edges[number + 1] <= edge):
            return float(radius) if radius < thick - step / 2 else None
    return None


def _edge(sums: NDArray[np.float64], squares: NDArray[np.float64], first: int, last: int) -> float:
    """Welch's t between the first values and those from there to ``last``; 0 where these are too few."""
    if first < 3 or last - first < 6:
        return 0.0
    inner, outer = sums[first] / first, (sums[last] - sums[first]) / (last - first)
    spread = squares[first] / first - inner**2, (squares[last] - squares[first]) / (last - first) - outer**2
    error = np.sqrt(max(spread[0], 0) / first + max(spread[1], 0) / (last - first))
    scale = max(abs(inner), abs(outer), 1e-6)
    return float(abs(inner - outer) / max(error, 1e-6 * scale))


def _alike(region: _Region, away: NDArray[np.float64], thick: float) -> NDArray[np.float64]:
    """Compute each voxel's similarity to those at the stroke, 0 to 1, by the spread of intensities around it."""
    near = region.open & (away <= 3 * _WIDTH * thick + 2 * min(region.spacing))
    spread = float(np.std(region.image[near])) or 1.0
    alike: NDArray[np.float64] = np.exp(-0.5 * ((region.image - _at_stroke(region, away, thick)) / spread) ** 2)
    return alike


def _at_stroke(region: _Region, away: NDArray[np.float64], thick: float) -> float:
    return float(np.median(region.image[region.open & (away <= max(thick / 2, min(region.spacing)))]))


def _connected(mask: _Mask, seeds: _Mask) -> _Mask:
    """Return the parts of a mask that contain or touch a stroke."""
    numbered, _ = ndimage.label(mask | seeds)
    kept = np.unique(numbered[seeds])
    found: _Mask = np.isin(numbered, kept[kept > 0])
    return found


def _unlike(region: _Region) -> bool:
    """Return whether the stroke lies on intensities outside the label's range nearby, such as air or metal."""
    if region.label == 0:
        return False
    known = region.image[region.ids == region.label]
    if known.size < _ENOUGH:
        return False
    low, high = np.percentile(known, (0.5, 99.5))
    room = max(high - low, 1e-6)
    away = ndimage.distance_transform_edt(~region.seeds, sampling=region.spacing)
    return not low - room <= _at_stroke(region, away, 0.0) <= high + room


def _unlike_note(place: tuple[slice, ...], name: str) -> str:
    return (
        f"The intensities at {[side.start for side in place]} are unlike {name} nearby (air, metal?): only the voxels that were drawn "
        "there were changed."
    )
