"""Tables of label names: medvit's header extension, ``labels.json``, 3D Slicer's header fields, a bundle's labels."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from pydantic import ValidationError

from medvit.errors import SourceError
from medvit.io.labels.names import make_label, printable_text, unique
from medvit.labels import Code, Label

__all__ = [
    "LARGEST_ID",
    "NamesFound",
    "SlicerSegment",
    "distinct_names",
    "from_header",
    "from_sidecar",
    "from_slicer",
    "read_table",
]

LARGEST_ID = 65535
"""Largest value of a label map."""

_TABLE_STEP = 'Write {"labels": {"1": {"name": "liver"}, ...}} or {"1": "liver", ...}.'


@dataclass(frozen=True)
class NamesFound:
    """Labels that a file names itself, by number, and notes on unusable entries of its table."""

    labels: dict[int, Label]
    notes: tuple[str, ...] = ()


class _TableError(SourceError):
    """A table of labels that cannot be used."""

    plain = ""
    """The finding without words of the file, which a record must not contain."""

    @classmethod
    def of(cls, plain: str, detail: object, needed: str, remedy: str = _TABLE_STEP) -> _TableError:
        """Create the error from what was found and a detail that may quote the file."""
        made = cls(f"{plain} ({detail})" if detail else plain, needed, remedy, option="table")
        made.plain = plain
        return made


def read_table(path: Path) -> tuple[Label, ...]:
    """Read a table of labels: medvit's ``labels.json``, a JSON object from number to name, or a ``dataset.json`` of
    nnU-Net (from name to number) or MONAI.

    Raises:
        SourceError: the file is not readable, not JSON, not such a table, or repeats a name or number.
    """
    labels, given = _read_rows(path)
    _require_distinct(given, path.name)
    return tuple(unique(labels))


def _require_distinct(given: Mapping[int, str], where: str) -> None:
    first: dict[str, int] = {}
    for number, name in given.items():
        before = first.setdefault(name.strip().casefold(), number)
        if before != number:
            raise SourceError(
                f"the name {name!r} for labels {before} and {number} in {where}",
                "each label needs a name of its own",
                "Rename one of them.",
            )


def _once(rows: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object; refuse repeated keys, of which Python would silently keep the last."""
    twice = [key for key, count in Counter(key for key, _ in rows).items() if count > 1]
    if twice:
        raise ValueError(f"{twice[0]!r} occurs {sum(key == twice[0] for key, _ in rows)} times in one object")
    return dict(rows)


def _read_rows(path: Path) -> tuple[list[Label], dict[int, str]]:
    """Return the labels of a table, and the names stated in it, by number."""
    try:
        content = json.loads(path.read_text(), object_pairs_hook=_once)
    except OSError as error:
        plain = f"no readable table of labels at {path}"
        raise _TableError.of(plain, error.strerror, "a JSON file is needed", "Check {table}.") from error
    except (ValueError, RecursionError) as error:
        raise _TableError.of(f"{path.name}, which is not JSON", error, "a table of labels is needed") from error
    rows = content.get("labels", content) if isinstance(content, dict) else None
    if not isinstance(rows, dict) or not rows:
        raise _TableError.of(f"{path.name}, which holds no table of labels", "", "numbers with names are needed")
    if not any(key.strip().isdigit() for key in rows):
        rows = _numbers_of_names(rows, path)
    # the background may be listed beside labels; a table of the background alone is refused
    rows = {key: row for key, row in rows.items() if key.strip() != "0"} or rows
    try:
        labels = [_row(_number(key), value) for key, value in rows.items()]
        given = {int(key): str(value if isinstance(value, str) else value["name"]) for key, value in rows.items()}
        return labels, given
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, ValidationError) as error:
        first = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error).splitlines()[0]
        plain, needed = f"an entry in {path.name} that is no label", "each needs a number from 1 on and a name"
        raise _TableError.of(plain, first, needed) from error


def _numbers_of_names(rows: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return a table with numbers as keys from one of nnU-Net's ``dataset.json``, which maps names to numbers."""
    numbers = {name: value[0] if isinstance(value, list) and len(value) == 1 else value for name, value in rows.items()}
    regions = [name for name, value in numbers.items() if isinstance(value, list)]
    if regions:
        raise _TableError.of(
            f"the region {regions[0]!r} of several numbers in {path.name}", "", "each name needs one number of the map"
        )
    if not all(type(value) is int for value in numbers.values()):
        return rows
    twice = [number for number, count in Counter(numbers.values()).items() if count > 1]
    if twice:
        raise _TableError.of(f"the number {twice[0]} for several names in {path.name}", "", "each needs one of its own")
    return {str(number): name for name, number in numbers.items()}


def _number(key: str) -> int:
    number = int(key)
    if number > LARGEST_ID:
        raise ValueError(f"{number} is above {LARGEST_ID}, the largest number in a label map")
    return number


def _row(number: int, value: Any) -> Label:
    if isinstance(value, str):
        return make_label(number, value)
    title = str(value.get("title") or value["name"])
    codes = [Code(**value[key]) if value.get(key) else None for key in ("category", "code", "laterality")]
    label = make_label(number, title, value.get("color"), codes)
    return (
        label.model_copy(update={"name": value["name"]})
        if re.fullmatch(r"[a-z0-9_]+", value.get("name", ""))
        else label
    )


def from_sidecar(path: Path) -> NamesFound:
    """Read the ``labels.json`` beside a ``labels.nii.gz``, as medvit writes them; return no names where there is none."""
    beside = path.with_name("labels.json")
    if path.name.partition(".")[0] != "labels" or not beside.is_file():
        return NamesFound({})
    try:
        return distinct_names(_read_rows(beside)[0], "labels.json")
    except _TableError as error:
        return NamesFound({}, (f"The names beside the label map were passed over: {error.plain}.",))


def from_header(header: Any) -> NamesFound:
    """Read the label table (XML, as Caret's) from a NIfTI's header extensions; return no names where there is none."""
    notes = []
    for extension in getattr(header, "extensions", None) or []:
        content = extension.get_content()
        text = content.decode("utf-8", "ignore") if isinstance(content, bytes) else str(content)
        if "<LabelTable" not in text:
            continue  # another program's extension
        try:
            # an XML table needs no entities of its own, and expanding them could fill the memory
            if "<!" in re.sub(r"<!\[CDATA\[", "", text):
                raise ValueError("it declares entities")
            rows = ElementTree.fromstring(text.strip("\0 \n")).iter("Label")
            return _numbered([(int(r.attrib["Key"]), r.text or "", _xml_color(r.attrib)) for r in rows], "the header")
        except (ElementTree.ParseError, KeyError, ValueError, OverflowError) as error:
            why = type(error).__name__  # the error's text may quote the header; the record must not
            notes.append(f"The table of names in the label map's header cannot be read and was passed over ({why}).")
    return NamesFound({}, tuple(notes))


def _xml_color(fields: Mapping[str, str]) -> Sequence[int]:
    return [round(float(fields[key]) * 255) for key in ("Red", "Green", "Blue")]


_NUMBER = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True)
class SlicerSegment:
    """A segment of a 3D Slicer ``.seg.nrrd``: the voxels with ``value`` in ``layer``; overlapping segments use several
    layers.
    """

    layer: int
    value: int
    label: Label


def from_slicer(fields: Mapping[str, str]) -> tuple[tuple[SlicerSegment, ...], tuple[str, ...]]:
    """List the segments of a 3D Slicer ``.seg.nrrd`` from its header fields; return none for another NRRD.

    Returns:
        The segments; and notes on segments that share a value within a layer (the last name is kept), have no name, or
        have an invalid value or layer.
    """
    found: dict[tuple[int, int], SlicerSegment] = {}
    twice, nameless, lost = list[str](), list[str](), list[str]()
    for number in sorted(
        {int(m[1]) for key in fields if (m := re.fullmatch(r"Segment([0-9]{1,9})_(?:LabelValue|Name)", key))}
    ):
        stated, layer, title = (
            " ".join(printable_text(fields.get(f"Segment{number}_{word}", otherwise)).split())
            for word, otherwise in (("LabelValue", ""), ("Layer", "0"), ("Name", ""))
        )
        if not (_NUMBER.fullmatch(stated) and _NUMBER.fullmatch(layer) and 0 < int(stated) <= LARGEST_ID):
            lost.append(title or f"segment {number}")
            continue
        key = int(layer), int(stated)
        twice += [str(key[1])] if key in found else []
        nameless += [] if title else [str(key[1])]
        found[key] = SlicerSegment(*key, make_label(key[1], title, _slicer_color(fields, number)))
    told = (
        ("Numbers that the header names more than once keep the last name: {}.", twice),
        ("Segments whose name is empty, by value: {}.", nameless),
        ("Segments whose value or layer is not a whole number: {}.", lost),
    )
    return tuple(found.values()), tuple(words.format(", ".join(rows)) for words, rows in told if rows)


def _slicer_color(fields: Mapping[str, str], number: int) -> list[int] | None:
    parts = fields.get(f"Segment{number}_Color", "").split()
    try:
        return [round(float(part) * 255) for part in parts] if len(parts) == 3 else None
    except (ValueError, OverflowError):
        return None


def _numbered(rows: list[tuple[int, str, Any]], where: str) -> NamesFound:
    ordered = sorted(rows, key=lambda row: row[0])
    return distinct_names(
        [make_label(number, title, color) for number, title, color in ordered if 0 < number <= LARGEST_ID], where
    )


def distinct_names(labels: Sequence[Label], where: str) -> NamesFound:
    """Make the names of labels unique by numbering; return the labels by number, with notes on repeated names and
    numbers.
    """
    notes = []
    numbers = [number for number, count in Counter(label.id for label in labels).items() if count > 1]
    if numbers:
        notes.append(f"Numbers that {where} names more than once keep the last name: {', '.join(map(str, numbers))}.")
    once = list({label.id: label for label in labels}.values())
    named = unique(once)
    again = [f"{new.name} ({new.id})" for old, new in zip(once, named, strict=True) if old.name != new.name]
    if again:
        notes.append(f"Names that {where} gives more than once were numbered on: {', '.join(again)}.")
    return NamesFound({label.id: label for label in named}, tuple(notes))
