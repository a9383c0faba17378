"""Refinement of labels by clicks and scribbles: computes which voxels around a stroke change.

The current labels, a network's answer or an annotator's edit, are the prior; a click is evidence against them at one
voxel. An error usually lies along a border, between the present and the correct edge of a label, and an annotator
clicks in its middle. So the distance from the click to the nearest voxel with the click's label estimates half the
thickness of the error. The border moves past the click by about the same distance again; it moves less where voxels are
farther from the click or differ in intensity. If the image shows a spot around the click with an edge of its own,
exactly the spot changes. The number of voxels that one click changes is bounded: a misunderstood click does little
harm, and a correct one can be repeated.
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
"""Shift of the border nearest to a click, in units of the distance between click and border; a click lies in the middle
of an error.
"""

_WIDTH = 2.5
"""Standard deviation, in the same unit, with which the shift decreases away from the click."""

_REACH = 4.0
"""Radius around a click beyond which no voxel changes: this many of the same units plus one voxel."""

_BALLS = 8.0
"""Upper limit of changed voxels, in units of a ball around the click whose radius is the distance to the border."""

_SHARE, _SPOT_SHARE = 0.008, 0.02
"""Upper limit of changed voxels, as a share of the label's; the second value applies to a spot with an edge of its own."""

_SPOT_EDGE = 6.0
"""Least difference between the inside of a spot and the ring around it, in standard errors (Welch's t)."""

_NEW_VOXELS = 3
"""Radius, in voxels, within which a label may change if it does not yet exist near the click."""

_HALF = {2: 96, 3: 28}
"""Half the side of the box around a click, in voxels of the shortest side, by the image's number of dimensions."""

_ENOUGH = 50
"""Least number of voxels that characterise the intensities of a label."""

_Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Refinement:
    """Labels after applying strokes.

    Attributes:
        ids: label ids; the given array itself if no voxel changed.
        notes: parts of strokes that were left out or changed, for the answer and the record.
    """

    ids: NDArray[np.integer]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Region:
    """A stroke and the box around it.

    Attributes:
        image: intensities.
        ids: current labels.
        open: voxels that have the label which the stroke changes, and no stroke of another label.
        seeds: voxels of the stroke.
        label: label of the stroke.
        spacing: voxel sides in mm.
        total: number of voxels of the stroke's label in the whole image.
        old_total: number of voxels of the label that the stroke changes.
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
        """Number of voxels of the smaller of both labels, without background; 0 if the stroke's label is new."""
        if self.label == 0:
            return self.old_total
        return min(self.total, self.old_total) if self.old else self.total

    @property
    def old(self) -> int:
        """Label that the stroke changes."""
        return int(self.ids[self.seeds][0])


def refine_labels(
    image: NDArray[np.float32], before: NDArray[np.integer], strokes: Strokes, spacing_mm: Sequence[float]
) -> Refinement:
    """Apply strokes to labels; each changes connected voxels near it with the label on which it was drawn.

    A stroke that agrees with the labels changes nothing.

    Args:
        image: intensities, (i, j, k) or (row, column).
        before: label ids on the same grid: a network's answer, or labels edited since.
        strokes: strokes of the annotator.
        spacing_mm: voxel sides.
    """
    after, notes = before, list(strokes.notes)
    spacing = tuple(float(side) for side in spacing_mm)
    for place, label, seeds in _wrong_strokes(before, strokes.ids):
        box = _around(place, before.shape, spacing)
        inner = tuple(slice(p.start - b.start, p.stop - b.start) for p, b in zip(place, box, strict=True))
        own = np.zeros(tuple(side.stop - side.start for side in box), bool)
        own[inner] = seeds
        own &= after[box] != label  # an earlier stroke may already have changed them
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
    """Yield the connected parts of strokes that contradict the labels: box, label and voxels within the box of each."""
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
    """Return the voxels around a stroke that take its label."""
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
    """Return a whole roundish piece of a label with the stroke in its middle, if most of the label lies elsewhere; else
    None.
    """
    if region.old == 0:
        return None
    piece, step = _connected(region.open, region.seeds), min(region.spacing)
    farthest = float(away[piece].max())
    if np.count_nonzero(piece) > region.old_total / 2 or farthest >= (_HALF[piece.ndim] - 1) * step:
        return None
    inside = ndimage.distance_transform_edt(np.pad(piece, 1), sampling=region.spacing)[(slice(1, -1),) * piece.ndim]
    return piece if farthest <= 2 * max(float(inside[region.seeds].max()), step) else None


def _thickest(region: _Region) -> float:
    """Return half the thickness of the label nearby, in mm; a missing part of the label is no thicker."""
    own = region.ids == (region.label or region.old)
    if not own.any():
        return _NEW_VOXELS * min(region.spacing)
    return float(ndimage.distance_transform_edt(np.pad(own, 1), sampling=region.spacing).max())


def _spot_radius(
    image: NDArray[np.float32], free: _Mask, away: NDArray[np.float64], thick: float, step: float
) -> float | None:
    """Return the radius of a spot around the stroke with an edge in the image, in mm; None if no edge lies well before
    the border.
    """
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
    """Return Welch's t between the values before ``first`` and those from ``first`` to ``last``; 0 if these are too few."""
    if first < 3 or last - first < 6:
        return 0.0
    inner, outer = sums[first] / first, (sums[last] - sums[first]) / (last - first)
    spread = squares[first] / first - inner**2, (squares[last] - squares[first]) / (last - first) - outer**2
    error = np.sqrt(max(spread[0], 0) / first + max(spread[1], 0) / (last - first))
    scale = max(abs(inner), abs(outer), 1e-6)
    return float(abs(inner - outer) / max(error, 1e-6 * scale))


def _alike(region: _Region, away: NDArray[np.float64], thick: float) -> NDArray[np.float64]:
    """Return the similarity of each voxel's intensity to that at the stroke, from 0 to 1."""
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
    """Return True if the stroke lies on intensities far outside the label's range nearby, such as air or metal."""
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
