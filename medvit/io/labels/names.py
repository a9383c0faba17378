"""Normalisation of the names, colours and codes that label files use, with defaults where a file has none."""

from __future__ import annotations

import colorsys
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from medvit.errors import SourceError
from medvit.io.labels.label_set import LabelMask, LabelSet
from medvit.labels import Code, Label

__all__ = [
    "STRUCTURE",
    "TISSUE",
    "Named",
    "by_name",
    "clean_name",
    "code_of",
    "color_of",
    "make_label",
    "printable_text",
    "rename",
    "require_known",
    "unique",
]

STRUCTURE = Code(value="91723000", scheme="SCT", meaning="Anatomical Structure")
"""Default category of a label (PS3.16 CID 7150)."""
TISSUE = Code(value="85756007", scheme="SCT", meaning="Tissue")
"""Default type of a label (PS3.16 CID 7151)."""

_GOLDEN = 0.618033988749895
"""Step of the hue, as a share of the colour circle; the golden ratio keeps neighbouring numbers far apart."""

_GENERIC = re.compile(r"(segment|label)?_?[0-9]*")
"""Cleaned names that programs generate (3D Slicer's "Segment_1"); they carry no meaning, so the number decides."""

_OURS = re.compile(r"(label)?_?[0-9]*")
"""Names that medvit generates for unnamed labels; their number is the value in the label map."""


def clean_name(title: str, otherwise: str) -> str:
    """Convert a title to a name for files and commands: lower-case ASCII letters, digits and underscores."""
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "_", plain).strip("_")[:60] or otherwise


def printable_text(text: str) -> str:
    """Replace each unprintable character by a blank, since DICOM interprets some of them as a change of character set."""
    return "".join(character if character.isprintable() else " " for character in text)


def color_of(number: int) -> tuple[int, int, int]:
    """Return a fixed colour for a label without one, distinct from the colours of neighbouring numbers."""
    r, g, b = colorsys.hsv_to_rgb((number * _GOLDEN) % 1.0, 0.65, 0.95)
    return round(r * 255), round(g * 255), round(b * 255)


def code_of(item: Any) -> Code | None:
    """Read the coded concept of a DICOM item (PS3.3 8.8); return None where it is incomplete."""
    value = next((str(item[key].value) for key in ("CodeValue", "LongCodeValue", "URNCodeValue") if item.get(key)), "")
    meaning = str(item.get("CodeMeaning") or "")
    scheme = str(item.get("CodingSchemeDesignator") or "")
    return Code(value=value, scheme=scheme, meaning=meaning) if value and scheme and meaning else None


def make_label(number: int, title: str, color: Sequence[int] | None = None, codes: Sequence[Code | None] = ()) -> Label:
    """Create a label from the values in a file.

    Args:
        number: the label's id, at least 1.
        title: the name for people; may be empty.
        color: RGB 0..255; a colour is chosen where this is None or not three numbers.
        codes: category, type and laterality; generic codes where absent.
    """
    category, kind, side = (*codes, None, None, None)[:3]
    title = " ".join(printable_text(title).split()) or f"Label {number}"
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
    """Make the names of labels unique by numbering repeated ones (``lesion``, ``lesion_2``)."""
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
    """Give segments the ids, names, colours and codes of the table's labels with the same name or title.

    Segments that the table lacks keep their own; where their id is used in the table, they get a free one.
    """
    known = _keyed(table)
    matches = [_match(segment.label, known) for segment in found.segments]
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
    return replace(found, segments=tuple(segments)).with_notes(*notes)


def require_known(found: LabelSet, table: Sequence[Label]) -> LabelSet:
    """Refuse segments with voxels that the table lacks; drop segments without voxels that it lacks.

    Raises:
        SourceError: a segment is not in the table; the message names it.
    """
    known = set(table)
    strange = [segment.label.title for segment in found.present() if segment.label not in known]
    if strange:
        raise _strange(strange, table)
    kept = tuple(segment for segment in found.segments if segment.label in known)
    return found if len(kept) == len(found.segments) else replace(found, segments=kept)


@dataclass(frozen=True)
class Named:
    """A value of a label map.

    Attributes:
        value: the value.
        own: its label, if the file or its sender names one.
        present: True where voxels have the value.
    """

    value: int
    own: Label | None
    present: bool

    def has_name(self, strict: bool) -> bool:
        """Return True if the value has a name that carries meaning.

        Names that programs generate ("Segment_1") carry none. With ``strict``, only the name that medvit generates for
        this very value ("label_1" for 1) counts as such.
        """
        if self.own is None:
            return False
        pattern, title = _OURS if strict else _GENERIC, _key(self.own.title)
        if not (pattern.fullmatch(self.own.name) and pattern.fullmatch(title)):
            return True
        stated = re.search(r"[0-9]+$", title)
        return strict and stated is not None and int(stated[0]) != self.value


def by_name(rows: Sequence[Named], table: Sequence[Label], strict: bool = False) -> tuple[list[Label], list[str]]:
    """Choose the label of each value: by name where the table has the name, by number where the value has no name.

    A value whose name the table lacks is kept as a separate label. If the table has none of the names, it renames the
    values by number, with a note.

    Args:
        rows: the values, in the order of their file.
        table: the labels to use.
        strict: True to refuse a value with voxels that the table lacks, instead of keeping it as a separate label.

    Returns:
        A label for each row, and notes.

    Raises:
        SourceError: with ``strict``, the table lacks a value, or two values have the same name.
    """
    known = _keyed(table)
    numbers = {label.id: label for label in table}
    matches = [_match(row.own, known) if row.own is not None else None for row in rows]
    if strict:
        _require_distinct([row for row, match in zip(rows, matches, strict=True) if match], matches)
    renames = not strict and not any(matches)
    chosen: list[Label | None] = [None] * len(rows)
    used: set[int] = set()
    for index in sorted(range(len(rows)), key=lambda n: (matches[n] is None, n)):  # values matched by name first
        row, match = rows[index], matches[index]
        if match is None and (renames or not row.has_name(strict)):
            match = numbers.get(row.value)
        if match is not None and match.id not in used:
            used.add(match.id)
            chosen[index] = match
    kept = [index for index, label in enumerate(chosen) if label is None]
    strange = [_shown(rows[index]) for index in kept if rows[index].present]
    if strict and strange:
        raise _strange(strange, table)
    taken = used | set(numbers)
    for index in kept:
        chosen[index] = _kept_apart(rows[index], taken)
    return [label for label in chosen if label is not None], _told(rows, chosen, kept, renames, bool(table))


def _require_distinct(rows: Sequence[Named], matches: Sequence[Label | None]) -> None:
    labels = [match for match in matches if match is not None]
    for row, label in zip(rows, labels, strict=True):
        if sum(other.id == label.id for other in labels) > 1:
            title = row.own.title if row.own is not None else label.title
            raise SourceError(
                f"two segments named {title!r}", "each label is one segment", "Merge them, or give each its own name."
            )


def _strange(names: Sequence[str], table: Sequence[Label]) -> SourceError:
    listed = ", ".join(dict.fromkeys(names))
    return SourceError(
        f"{listed[:300]}, which the table of labels does not have",
        f"it has {', '.join(label.name for label in table)}",
        "Rename the segment as one of these, or remove it.",
    )


def _shown(row: Named) -> str:
    return row.own.title if row.own is not None and row.has_name(True) else f"the value {row.value}"


def _kept_apart(row: Named, taken: set[int]) -> Label:
    number = row.value if row.value not in taken else next(n for n in range(1, 2**16) if n not in taken)
    taken.add(number)
    return row.own.model_copy(update={"id": number}) if row.own is not None else make_label(number, "")


def _told(
    rows: Sequence[Named], chosen: Sequence[Label | None], kept: Sequence[int], renames: bool, table: bool
) -> list[str]:
    """Describe the values with voxels that were renumbered, renamed by number, kept as separate labels, or have no
    name.
    """
    notes = []
    moved = [
        f"{row.own.title} from {row.value} to {label.id}"
        for n, (row, label) in enumerate(zip(rows, chosen, strict=True))
        if row.present and row.own is not None and label is not None and label.id != row.value and n not in kept
    ]
    if moved:
        notes.append(f"Values were changed by the names of their labels: {', '.join(moved)}.")
    other = [
        f"{label.title} for {row.own.title}"
        for row, label in zip(rows, chosen, strict=True)
        if renames and row.has_name(False) and row.present and row.own is not None and label is not None
        and label.name != row.own.name
    ]  # fmt: skip
    if other:
        notes.append(f"The table knows none of the file's names and renamed them by number: {', '.join(other)}.")
    beside = [rows[n].own for n in kept if table and rows[n].present and rows[n].has_name(False)]
    if beside:
        names = ", ".join(own.title for own in beside if own is not None)
        notes.append(f"Not in the table of labels, kept as they are: {names}.")
    unnamed = [str(rows[n].value) for n in kept if rows[n].present and rows[n].own is None]
    if unnamed:
        listed = ", ".join(unnamed[:8]) + (", ..." if len(unnamed) > 8 else "")
        notes.append(
            f"No name is known for {len(unnamed)} label(s) ({listed}); they are called label_N with generic codes."
        )
    return notes


def _key(text: str) -> str:
    """Normalise a name for comparison; a name without Latin letters keeps its characters, in lower case with single
    spaces.
    """
    return clean_name(text, "") or " ".join(text.casefold().split())


def _keyed(table: Sequence[Label]) -> dict[str, Label]:
    return {_key(text): label for label in table for text in (label.title, label.name)}


def _match(own: Label, known: Mapping[str, Label]) -> Label | None:
    made_up = not clean_name(own.title, "") and _OURS.fullmatch(own.name)  # generated for a title without Latin letters
    return known.get(_key(own.title)) or (None if made_up else known.get(own.name))


def _numbered(segment: LabelMask, number: int) -> LabelMask:
    return replace(segment, label=segment.label.model_copy(update={"id": number}))
