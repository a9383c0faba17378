"""Strokes: clicks and scribbles of clients, as label ids on the image's grid."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvit.bundles import Bundle
from medvit_label.errors import RequestError

__all__ = ["Strokes", "has_points", "place_of", "read_strokes"]

_BACKGROUND = "background"


@dataclass(frozen=True)
class Strokes:
    """Strokes that an annotator drew.

    Attributes:
        ids: label ids on the image's grid; -1 where nothing was drawn, 0 for background.
        names: names of the labels by id.
        notes: notes on contradictions, and their resolution.
    """

    ids: NDArray[np.int16]
    names: Mapping[int, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def has_points(content: Mapping[str, Any], bundle: Bundle) -> bool:
    """Return whether a request's params hold a point, under any key that ``read_strokes`` reads.

    Raises:
        RequestError: a value is not a list of points by label.
    """
    return any(points for _, points in _lists(content, bundle))


def read_strokes(
    content: Mapping[str, Any], bundle: Bundle, shape: Sequence[int], drawn: NDArray[np.integer] | None
) -> Strokes:
    """Read a client's clicks and scribbles; if two clicks give one voxel different labels, the last counts, with a
    note.

    Args:
        content: ``{"clicks": {"liver": [[i, j, k], ...], "background": [...]}}``; or MONAI Label's ``foreground`` (with ``label``,
            a name, unless the bundle has only one) and ``background`` lists; or lists under the labels' own names.
        bundle: bundle whose labels they name.
        shape: shape of the image.
        drawn: scribbles as an array on the image's grid: 0 where nothing was drawn, 255 for background.

    Raises:
        RequestError: an unknown label, or a point outside the image.
    """
    names = {0: _BACKGROUND} | {label.id: label.name for label in bundle.facts.labels}
    ids = np.full(tuple(shape), -1, np.int16)
    if drawn is not None:
        if drawn.shape != ids.shape:
            raise RequestError(
                f"scribbles of {drawn.shape} voxels, where the image has {ids.shape}",
                "they must be equal",
                "Draw on the image itself.",
            )
        known = names.keys() - {0}
        if not set(np.unique(drawn).tolist()) <= {0, 255, *known}:
            raise RequestError(
                f"scribbles with ids other than {sorted(known)} and 255",
                "the bundle has no other labels",
                "Use these ids.",
            )
        ids[drawn != 0] = np.where(drawn[drawn != 0] == 255, 0, drawn[drawn != 0])
    notes: list[str] = []
    for name, points in _lists(content, bundle):
        number = 0 if name == _BACKGROUND else bundle.label(name).id
        for point in points:
            place = place_of(point, ids.shape)
            if ids[place] not in (-1, number):
                notes.append(
                    f"Two labels were clicked or drawn at {list(place)}: {names[int(ids[place])]}, then {name}; the last, {name}, was taken."
                )
            ids[place] = number
    if not (ids >= 0).any():
        raise RequestError("no click and no scribble", "draw at least one")
    return Strokes(ids, names, tuple(notes))


def _lists(content: Mapping[str, Any], bundle: Bundle) -> Iterable[tuple[str, list[Any]]]:
    """Yield the points of a request by label, in the order in which they are applied."""
    clicks = content.get("clicks") or {}
    if not isinstance(clicks, dict):
        raise RequestError(
            f"clicks that are not an object ({str(clicks)[:40]})",
            "lists of points by label are needed",
            'Send {"LABEL": [[i, j, k]]}.',
        )
    found = list(clicks.items())
    found += _named(content, bundle).items()
    found += _misnamed(content, bundle).items()
    if content.get("foreground"):
        found.append((_foreground_label(content, bundle), content["foreground"]))
    found.append((_BACKGROUND, content.get(_BACKGROUND) or []))
    for name, points in found:
        yield str(name), points if isinstance(points, list) else [points]


def _named(content: Mapping[str, Any], bundle: Bundle) -> dict[str, list[Any]]:
    """Return the points listed under the labels' own names, the form in which MONAI Label's clients send several labels."""
    names = {label.name for label in bundle.facts.labels} - {_BACKGROUND, "foreground", "clicks", "roi"}
    return {name: points for name, points in content.items() if name in names and isinstance(points, list)}


def _misnamed(content: Mapping[str, Any], bundle: Bundle) -> dict[str, list[Any]]:
    """Return lists of points under unknown names, so that the caller refuses them as unknown labels."""
    if bundle.facts.task != "segmentation":
        return {}
    known = {label.name for label in bundle.facts.labels} | {_BACKGROUND, "foreground", "clicks", "roi", "label_info"}
    return {name: rows for name, rows in content.items() if name not in known and _are_points(rows)}


def _are_points(rows: Any) -> bool:
    return (
        isinstance(rows, list)
        and bool(rows)
        and all(
            isinstance(row, list)
            and len(row) in (2, 3)
            and all(isinstance(value, int | float) and not isinstance(value, bool) for value in row)
            for row in rows
        )
    )


def _foreground_label(content: Mapping[str, Any], bundle: Bundle) -> str:
    """Return the label of the points under ``foreground``.

    Raises:
        RequestError: the request names no label, and the bundle has several.
    """
    if content.get("label"):
        return str(content["label"])
    names = [label.name for label in bundle.facts.labels]
    if len(names) != 1:
        raise RequestError(
            "points under 'foreground' without a label", f"{bundle.name} has {', '.join(names)}", "Name one as 'label'."
        )
    return names[0]


def place_of(point: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Read a client's point as voxel indices.

    Raises:
        RequestError: the value is not a point, or the point lies outside the image.
    """
    try:
        place = tuple(round(float(value)) for value in point)
    except (TypeError, ValueError, OverflowError):
        place = ()
    if len(place) != len(shape) or any(not 0 <= p < n for p, n in zip(place, shape, strict=True)):
        raise RequestError(
            f"the point {str(point)[:60]}", f"a point is one voxel index for each axis within {shape}", "Correct it."
        )
    return place
