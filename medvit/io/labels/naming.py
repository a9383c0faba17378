"""Labels for what files name in their own ways: clean names, colours, codes where a file has none."""

from __future__ import annotations

import colorsys
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from medvit.bundles import Code, Label
from medvit.io.labels.model import LabelSet, Segment

__all__ = ["STRUCTURE", "TISSUE", "clean_name", "code_of", "color_of", "make_label", "rename", "unique"]

STRUCTURE = Code(value="91723000", scheme="SCT", meaning="Anatomical Structure")
TISSUE = Code(value="85756007", scheme="SCT", meaning="Tissue")
"""What a label is coded as where nothing says more (PS3.16 CID 7150 and 7151)."""

_GOLDEN = 0.618033988749895


def clean_name(title: str, otherwise: str) -> str:
    """A name for files and commands: lower-case ASCII letters, digits and underscores."""
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "_", plain).strip("_")[:60] or otherwise


def color_of(number: int) -> tuple[int, int, int]:
    """A colour for a label that has none, the same every time, far from its neighbours'."""
    r, g, b = colorsys.hsv_to_rgb((number * _GOLDEN) % 1.0, 0.65, 0.95)
    return round(r * 255), round(g * 255), round(b * 255)


def code_of(item: Any) -> Code | None:
    """A coded concept of a DICOM item (PS3.3 8.8), or None where it is incomplete."""
    value = next((str(item[key].value) for key in ("CodeValue", "LongCodeValue", "URNCodeValue") if item.get(key)), "")
    meaning = str(item.get("CodeMeaning") or "")
    scheme = str(item.get("CodingSchemeDesignator") or "")
    return Code(value=value, scheme=scheme, meaning=meaning) if value and scheme and meaning else None


def make_label(number: int, title: str, color: Sequence[int] | None = None, codes: Sequence[Code | None] = ()) -> Label:
    """A label from what a file says.

    Args:
        number: its id, at least 1.
        title: its name for people; may be empty.
        color: RGB 0..255; one is chosen where there is none, or where it is not three numbers.
        codes: category, type and laterality; generic ones where there are none.
    """
    category, kind, side = (*codes, None, None, None)[:3]
    title = " ".join(title.split()) or f"Label {number}"
    red, green, blue = (
        (min(255, max(0, int(c))) for c in color) if color is not None and len(color) == 3 else color_of(number)
    )
    return Label(
        id=number,
        name=clean_name(title, f"label_{number}"),
        title=title,
        color=(red, green, blue),
        category=category or STRUCTURE,
        type=kind or TISSUE,
        laterality=side,
    )


def unique(labels: Iterable[Label]) -> list[Label]:
    """The same labels, those with a name already taken numbered on (``lesion``, ``lesion_2``)."""
    taken: set[str] = set()
    distinct = []
    for label in labels:
        name, count = label.name, 1
        while name in taken:
            count += 1
            name = f"{label.name}_{count}"
        taken.add(name)
        distinct.append(label if name == label.name else label.model_copy(update={"name": name}))
    return distinct


def rename(found: LabelSet, table: Sequence[Label]) -> LabelSet:
    """Give segments the ids, names, colours and codes of a table's labels of the same name or title.

    Segments the table does not know keep what they have; where their id is one of the table's, they get a free one.
    """
    known = {clean_name(text, ""): label for label in table for text in (label.title, label.name)}
    matches = [
        known.get(segment.label.name) or known.get(clean_name(segment.label.title, "")) for segment in found.segments
    ]
    taken = {label.id for label in table}
    free = (number for number in range(1, 2**16) if number not in taken)
    segments, unknown, used = [], [], set()
    for segment, match in zip(found.segments, matches, strict=True):
        if match is not None and match.id not in used:
            used.add(match.id)
            segments.append(replace(segment, label=match))
            continue
        unknown.append(segment.label.name)
        number = segment.label.id if segment.label.id not in taken else next(free)
        taken.add(number)
        segments.append(_numbered(segment, number))
    notes = [f"Not in the table of labels, kept as they are: {', '.join(unknown)}."] if unknown else []
    distinct = unique(segment.label for segment in segments)
    segments = [replace(segment, label=label) for segment, label in zip(segments, distinct, strict=True)]
    return replace(found, segments=tuple(segments)).noting(*notes)


def _numbered(segment: Segment, number: int) -> Segment:
    return replace(segment, label=segment.label.model_copy(update={"id": number}))
