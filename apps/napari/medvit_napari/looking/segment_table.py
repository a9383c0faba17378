"""Segment table of a label layer: names, codes, colours, visibility, and the segment that is painted. It needs no Qt.

The table is ``LayerInfo.labels`` in the layer's metadata; every writer writes it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from medvit.bundles import bundle_folders, open_bundle
from medvit.errors import MedvitError
from medvit.io.labels import clean_name, make_label, printable_text, unique
from medvit.labels import Code, Label
from medvit_napari.errors import LayerError
from medvit_napari.reading.layer_info import KEY, LayerInfo, place_of
from medvit_napari.reading.painted_labels import label_place, painted_ids
from medvit_napari.reading.segment_colors import label_colormap, label_features

__all__ = [
    "add_segment",
    "add_segments",
    "change_segment",
    "check_names",
    "code_text",
    "completed",
    "hidden_ids",
    "known_labels",
    "named_labels",
    "parse_code",
    "remove_segment",
    "set_visible",
    "table_of",
    "unnamed",
]

_LONGEST_NAME = 64
"""Upper limit of characters in a segment's name (DICOM LO); a file would hold only the beginning of a longer name."""


def unnamed(number: int, color: Sequence[int] | None = None) -> Label:
    """Make the label of an unnamed segment: "Segment N", with generic codes."""
    return make_label(number, f"Segment {number}", color)


def _place(layer: Any) -> LayerInfo:
    place = place_of(layer)
    if place is None or type(layer).__name__ != "Labels":
        raise LayerError(
            f"the layer {layer.name!r}, which has no segment table",
            "labels that medvit made are needed",
            "Use 'New labels on this image'.",
        )
    return place


def table_of(layer: Any) -> tuple[Label, ...]:
    """Return a layer's segments: its table, and "Segment N" for each painted id without a row."""
    place = _place(layer)
    return completed(place.labels, painted_ids(layer), {v: _painted_colour(layer, v) for v in painted_ids(layer)})


def named_labels(layer: Any) -> tuple[Label, ...]:
    """Return the segments of a label layer that lies on an image; see ``table_of``.

    Raises:
        LayerError, PlaceError: the layer holds no labels that medvit made.
    """
    label_place(layer)
    return table_of(layer)


def completed(
    labels: Iterable[Label], painted: Iterable[int], colours: Mapping[int, tuple[int, int, int] | None]
) -> tuple[Label, ...]:
    """Complete a table with "Segment N" for each painted id without a row."""
    rows = {label.id: label for label in labels}
    rows |= {value: unnamed(value, colours.get(value)) for value in painted if value not in rows}
    return tuple(unique(label for _, label in sorted(rows.items())))


def _painted_colour(layer: Any, value: int) -> tuple[int, int, int] | None:
    chosen = getattr(layer.colormap, "color_dict", None)
    if chosen is not None and value not in chosen:
        return None  # painted without a colour of its own; the default colour of its id applies
    colour = layer.get_color(value)
    if colour is None or not float(colour[3]):
        return None
    r, g, b = (round(float(c) * 255) for c in colour[:3])
    return r, g, b


def hidden_ids(layer: Any) -> set[int]:
    """Return the ids that are drawn transparent."""
    colours = getattr(layer.colormap, "color_dict", {})
    return {int(n) for n, colour in colours.items() if n and not float(colour[3])}


def check_names(labels: Iterable[Label]) -> None:
    """Refuse two segments with the same name.

    Raises:
        LayerError: names that differ only in letter case, spaces and signs.
    """
    rows = list(labels)
    count = Counter(_key(label) for label in rows)
    for label in rows:
        if count[_key(label)] > 1:
            ids = ", ".join(str(n.id) for n in rows if _key(n) == _key(label))
            raise LayerError(
                f"{count[_key(label)]} segments named {label.title!r} (ids {ids})",
                "each needs a name of its own",
                "Rename one in the widget Segments.",
            )


def _key(label: Label) -> str:
    """Return the form of a name that files and servers compare: without letter case, spaces and signs."""
    words = " ".join(label.title.casefold().split())
    return clean_name(words, words)


def _store(layer: Any, labels: Iterable[Label], hidden: Iterable[int]) -> None:
    """Store a table in the layer, with its colours and its names for the status line."""
    rows = tuple(unique(sorted(labels, key=lambda n: n.id)))
    layer.colormap = label_colormap(rows, hidden)
    layer.features = label_features(rows)
    layer.metadata = {**layer.metadata, KEY: replace(_place(layer), labels=rows)}


def add_segment(layer: Any, title: str = "") -> Label:
    """Add a segment with the first free id and select it for painting.

    Args:
        title: name of the segment; if empty, "Segment N".
    """
    rows = table_of(layer)
    taken = {label.id for label in rows}
    number = next(n for n in range(1, 2**16) if n not in taken)
    made = make_label(number, title) if title.strip() else unnamed(number)
    _store(layer, (*rows, made), hidden_ids(layer))
    layer.selected_label = number
    return made


def add_segments(layer: Any, labels: Iterable[Label]) -> list[Label]:
    """Add the segments of a bundle's table, except those whose name exists already; return the added ones.

    An id that is already used is replaced by the first free one.
    """
    rows = list(table_of(layer))
    names, taken, added = {_key(n) for n in rows}, {n.id for n in rows}, []
    free = (n for n in range(1, 2**16) if n not in taken)
    for label in labels:
        if _key(label) not in names:
            number = label.id if label.id not in taken else next(free)
            taken.add(number)
            added.append(label.model_copy(update={"id": number, "volume_ml": None}))
    _store(layer, [*rows, *added], hidden_ids(layer))
    return added


def remove_segment(layer: Any, number: int) -> None:
    """Remove a segment's row.

    Raises:
        LayerError: the segment has voxels, which would be left without a name.
    """
    if number in painted_ids(layer):
        raise LayerError(
            f"voxels of segment {number}", "a row with voxels cannot be removed", "Erase or repaint them first."
        )
    _store(layer, [n for n in table_of(layer) if n.id != number], hidden_ids(layer))


def change_segment(
    layer: Any,
    number: int,
    *,
    title: str | None = None,
    color: tuple[int, int, int] | None = None,
    code: Label | Code | None = None,
) -> Label:
    """Change a segment's name, colour or code; None leaves a value as it is.

    Args:
        number: id of the segment.
        code: a code of the segment's type, or a label whose category, type and laterality are used. An unnamed segment
            also takes that label's name.

    Raises:
        LayerError: there is no such segment, or the name is empty or too long.
    """
    rows = {label.id: label for label in table_of(layer)}
    if number not in rows:
        raise LayerError(f"no segment {number} in {layer.name!r}", "a segment of its table is needed", "Choose one.")
    old = rows[number]
    if title is not None and not title.strip():
        raise LayerError(f"an empty name for segment {number}", "a name is needed", "Type one.")
    if title is not None and len(title.strip()) > _LONGEST_NAME:
        raise LayerError(
            f"a name of {len(title.strip())} characters for segment {number}",
            f"DICOM takes at most {_LONGEST_NAME}",
            "Shorten it.",
        )
    if title is None and isinstance(code, Label) and old.title == unnamed(number).title:
        title = code.title
    known: dict[str, Any] = {}
    if title is not None:
        words = " ".join(printable_text(title).split())
        known |= {"title": words, "name": clean_name(words, f"label_{number}")}
    if color is not None:
        known["color"] = color
    if isinstance(code, Label):
        known |= {"category": code.category, "type": code.type, "laterality": code.laterality}
    elif code is not None:
        known |= {"type": code, "laterality": None}
    rows[number] = old.model_copy(update=known)
    _store(layer, rows.values(), hidden_ids(layer))
    return rows[number]


def set_visible(layer: Any, number: int, visible: bool) -> None:
    """Show or hide a segment; its voxels are not changed."""
    hidden = hidden_ids(layer)
    hidden.discard(number) if visible else hidden.add(number)
    _store(layer, table_of(layer), hidden)


def known_labels() -> list[Label]:
    """Return the labels of all bundles, each concept once, sorted by name; unreadable bundles are left out."""
    found: dict[str, Label] = {}
    for folder in bundle_folders():
        try:
            labels = open_bundle(folder).facts.labels
        except MedvitError:
            continue
        for label in labels:
            found.setdefault(f"{label.title.casefold()} {code_text(label)}", label)
    return [label for _, label in sorted(found.items())]


def code_text(label: Label) -> str:
    """Format a label's code as scheme/value/meaning, followed by its side."""
    side = f" ({label.laterality.meaning})" if label.laterality is not None else ""
    return f"{label.type.scheme}/{label.type.value}/{label.type.meaning}{side}"


def parse_code(text: str) -> Code:
    """Parse a code of the form scheme/value/meaning.

    Raises:
        LayerError: another form, or text too long for DICOM (16, 16 and 64 characters).
    """
    parts = [part.strip() for part in text.split("/", 2)]
    if len(parts) != 3 or not all(parts) or not text.isprintable() or "\\" in text:
        raise LayerError(
            f"the code {text[:40]!r}",
            "scheme/value/meaning is needed, for example SCT/10200004/Liver",
            "Type it in this form, or choose one.",
        )
    for part, most, what in zip(parts, (16, 16, 64), ("scheme", "value", "meaning"), strict=True):
        if len(part) > most:
            raise LayerError(
                f"a code whose {what} has {len(part)} characters", f"at most {most} are possible", "Shorten it."
            )
    return Code(scheme=parts[0], value=parts[1], meaning=parts[2])
