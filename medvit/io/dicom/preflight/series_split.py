"""Separation of volumes that share a series, by their headers: echoes, time points, kernels, stacks, stations.

A series is split only where the parts are more regular than the whole; the user then chooses one of them.
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from medvit.io.dicom.header import PlaneHeader
from medvit.io.dicom.preflight.stack import build_stack, distances_along_normal, same_position_tolerance_mm

__all__ = ["interleaved", "is_stray", "multiplicity_of", "places_of", "split_by_attribute"]

_STRAY = 0.1
"""Share of another part's slices below which a part counts as a stray of its series (so does a part of at most three
slices).
"""

_SHORTEST = 4
"""Smallest number of slices of a volume beside others."""

_ANYWHERE = ("ImageType", "StackID")
"""Attributes that separate parts even where the parts do not overlap. Other attributes separate only overlapping parts,
since a moving table changes many attributes within one volume.
"""

Parts = dict[str, list[PlaneHeader]]
"""Planes by the name of their part."""


def is_stray(count: int, most: int) -> bool:
    """Return True if a part of ``count`` slices is too small to be a volume beside a part of ``most`` slices."""
    return count < most and (count <= min(3, most // 4) or count < _STRAY * most)


def places_of(planes: Sequence[PlaneHeader]) -> list[list[PlaneHeader]]:
    """Group planes by position along the normal."""
    distance = distances_along_normal(planes)
    order = np.argsort(distance, kind="stable")
    starts = np.concatenate([[True], np.diff(distance[order]) >= same_position_tolerance_mm(planes[0])])
    places: list[list[PlaneHeader]] = []
    for n, new in zip(order, starts, strict=True):
        if new:
            places.append([])
        places[-1].append(planes[int(n)])
    return places


def multiplicity_of(planes: Sequence[PlaneHeader]) -> list[int]:
    """Count the planes at each position."""
    return [len(place) for place in places_of(planes)]


def split_by_attribute(planes: list[PlaneHeader], places: int) -> Parts:
    """Split by the first attribute, or pair of attributes, that leaves at most one plane of a part at each position.

    Each part must fill at least half of the positions. Where no attribute achieves that, parts may also be complete
    volumes side by side (overlapping stations), or strays among them (a summary picture). Returns no parts where no
    attribute does so.
    """
    loose: Parts = {}
    for chosen, parts in _partings(planes, pairs=True):
        counts = [multiplicity_of(part) for part in parts.values()]
        if max(max(c) for c in counts) > 1:
            continue
        if all(2 * len(c) >= places for c in counts):
            return parts
        if not loose and len(chosen) == 1 and _sound(parts):
            loose = parts
    return loose


def interleaved(planes: list[PlaneHeader]) -> Parts:
    """Split an irregular stack that consists of two or more interleaved regular stacks, or of one with strays.

    Examples: two reconstructions with different increments, two stacks of one file, an image of another kind between
    the slices. Interpolation across such slices would mix unrelated images.
    """
    for chosen, parts in _partings(planes, pairs=False):
        if not _sound(parts):
            continue
        main = max(parts.values(), key=len)
        others = [part for part in parts.values() if part is not main]
        if chosen[0] in _ANYWHERE or all(_overlap(main, part) for part in others):
            return parts
    return {}


def _partings(planes: list[PlaneHeader], pairs: bool) -> Iterator[tuple[tuple[str, ...], Parts]]:
    """Yield every way to split planes by an attribute with several values, and by pairs of such attributes if
    ``pairs``.
    """
    orders = [dict(p.order) for p in planes]
    names = [n for n in dict.fromkeys(k for o in orders for k in o) if len({o.get(n) for o in orders}) > 1]
    for chosen in (*((n,) for n in names), *(itertools.combinations(names, 2) if pairs else ())):
        parts: Parts = defaultdict(list)
        for plane, order in zip(planes, orders, strict=True):
            parts[", ".join(f"{n} {order.get(n, 'none')}" for n in chosen)].append(plane)
        yield chosen, dict(sorted(parts.items(), key=lambda part: _natural(part[0])))


def _natural(text: str) -> list[tuple[float, str]]:
    """Return a sort key that orders numbers within text by value."""
    words = re.split(r"(\d+(?:\.\d+)?)", text)
    return [(float(word), "") if n % 2 else (-1.0, word) for n, word in enumerate(words)]


def _sound(parts: Parts) -> bool:
    """Return True if each part is a regular stack of several slices, or a stray beside one."""
    most = max(len(part) for part in parts.values())
    return most >= _SHORTEST and all(is_stray(len(part), most) or _regular(part) for part in parts.values())


def _regular(part: list[PlaneHeader]) -> bool:
    return len(part) >= _SHORTEST and all(f.severity == "note" for f in build_stack(part).findings)


def _overlap(main: list[PlaneHeader], part: list[PlaneHeader]) -> bool:
    """Return True if a part overlaps the main part along at least half of the shorter one's length."""
    distance = distances_along_normal([*main, *part])
    a, b = distance[: len(main)], distance[len(main) :]
    shared = min(a.max(), b.max()) - max(a.min(), b.min())
    return bool(shared >= 0 and shared >= 0.5 * min(np.ptp(a), np.ptp(b)))
