"""Volumes that share a series, told apart by what their headers say: echoes, time points, kernels, stacks, stations.

Nothing is guessed: a series is only parted where the parts make more sense than the whole, and whoever runs a model then
chooses one.
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
"""A part with less than this share of the slices of another in its series (or at most three) is a stray of it."""

_SHORTEST = 4
"""Slices of which a part must consist at least, to be a volume beside others."""

_ANYWHERE = ("ImageType", "StackID")
"""Attributes by which parts may also lie beside one another; those of any other are parted only where they overlap, since
a table that moves changes many an attribute within one volume."""

Parts = dict[str, list[PlaneHeader]]


def is_stray(count: int, most: int) -> bool:
    """Whether so few slices are no volume of their own beside one of ``most`` slices."""
    return count < most and (count <= min(3, most // 4) or count < _STRAY * most)


def places_of(planes: Sequence[PlaneHeader]) -> list[list[PlaneHeader]]:
    """Planes by position along the normal."""
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
    """How many planes lie at each position."""
    return [len(place) for place in places_of(planes)]


def split_by_attribute(planes: list[PlaneHeader], places: int) -> Parts:
    """Split by the first attribute, or pair of them, that leaves no two planes of a part at one position.

    Each part is to fill at least half of the places; where no attribute does that, parts may also be whole volumes beside
    one another (stations that overlap), or strays among them (a summary picture). Empty where nothing tells.
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
    """Split an irregular stack where it is two or more regular ones pushed into each other, or one with strays.

    Two reconstructions with other increments, two stacks of one file, a picture of another kind between the slices: what
    no one should interpolate across.
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
    """Every way to part planes by an attribute in which they differ, or by two."""
    orders = [dict(p.order) for p in planes]
    names = [n for n in dict.fromkeys(k for o in orders for k in o) if len({o.get(n) for o in orders}) > 1]
    for chosen in (*((n,) for n in names), *(itertools.combinations(names, 2) if pairs else ())):
        parts: Parts = defaultdict(list)
        for plane, order in zip(planes, orders, strict=True):
            parts[", ".join(f"{n} {order.get(n, 'none')}" for n in chosen)].append(plane)
        yield chosen, dict(sorted(parts.items(), key=lambda part: _natural(part[0])))


def _natural(text: str) -> list[tuple[float, str]]:
    """A key that sorts numbers within text by their size."""
    words = re.split(r"(\d+(?:\.\d+)?)", text)
    return [(float(word), "") if n % 2 else (-1.0, word) for n, word in enumerate(words)]


def _sound(parts: Parts) -> bool:
    """Whether each part is a regular stack of some slices, or a stray beside one."""
    most = max(len(part) for part in parts.values())
    return most >= _SHORTEST and all(is_stray(len(part), most) or _regular(part) for part in parts.values())


def _regular(part: list[PlaneHeader]) -> bool:
    return len(part) >= _SHORTEST and all(f.severity == "note" for f in build_stack(part).findings)


def _overlap(main: list[PlaneHeader], part: list[PlaneHeader]) -> bool:
    """Whether a part lies for at least half of its length within the main one."""
    distance = distances_along_normal([*main, *part])
    a, b = distance[: len(main)], distance[len(main) :]
    shared = min(a.max(), b.max()) - max(a.min(), b.min())
    return bool(shared >= 0 and shared >= 0.5 * min(np.ptp(a), np.ptp(b)))
