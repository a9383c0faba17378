"""Tables that say what the numbers of a label map mean: our header extension, ``labels.json``, 3D Slicer's, a bundle's."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from pydantic import ValidationError

from medvit.bundles import Code, Label
from medvit.errors import SourceError
from medvit.io.labels.naming import make_label, unique

__all__ = ["from_header", "from_sidecar", "from_slicer", "read_table"]

_TABLE_STEP = 'Write {"labels": {"1": {"name": "liver"}, ...}} or {"1": "liver", ...}.'


def read_table(path: Path) -> tuple[Label, ...]:
    """A file of labels: medvit's ``labels.json``, or a JSON object from number to name.

    Raises:
        SourceError: not readable, not JSON, or not such a table.
    """
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise SourceError(
            f"Found no readable table of labels at {path} ({error.strerror}); a JSON file is needed. Check --labels."
        ) from error
    except ValueError as error:
        raise SourceError(
            f"Found {path.name}, which is not JSON ({error}); a table of labels is needed. {_TABLE_STEP}"
        ) from error
    rows = content.get("labels", content) if isinstance(content, dict) else None
    if not isinstance(rows, dict) or not rows:
        raise SourceError(
            f"Found {path.name}, which holds no table of labels; numbers with names are needed. {_TABLE_STEP}"
        )
    try:
        return tuple(unique(_row(int(key), value) for key, value in rows.items()))
    except (ValueError, TypeError, KeyError, AttributeError, ValidationError) as error:
        first = str(error).splitlines()[0]
        raise SourceError(
            f"Found an entry in {path.name} that is no label ({first}); each needs a number from 1 on and a name. {_TABLE_STEP}"
        ) from error


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


def from_sidecar(path: Path) -> dict[int, Label]:
    """What ``labels.json`` beside a ``labels.nii.gz`` says, as medvit writes the two; empty without one."""
    beside = path.with_name("labels.json")
    if path.name.partition(".")[0] != "labels" or not beside.is_file():
        return {}
    return {label.id: label for label in read_table(beside)}


def from_header(header: Any) -> dict[int, Label]:
    """The label table in a NIfTI's header extensions (as Caret's, in XML), empty without one."""
    for extension in getattr(header, "extensions", None) or []:
        content = extension.get_content()
        text = content.decode("utf-8", "ignore") if isinstance(content, bytes) else str(content)
        # an XML table needs no entities of its own, and expanding them could fill the memory
        if "<LabelTable" not in text or "<!" in re.sub(r"<!\[CDATA\[", "", text):
            continue
        try:
            rows = ElementTree.fromstring(text.strip("\0 \n")).iter("Label")
            return _numbered([(int(r.attrib["Key"]), r.text or "", _xml_color(r.attrib)) for r in rows])
        except (ElementTree.ParseError, KeyError, ValueError):
            continue  # another program's extension; the numbers then speak for themselves
    return {}


def _xml_color(fields: Mapping[str, str]) -> Sequence[int]:
    return [round(float(fields[key]) * 255) for key in ("Red", "Green", "Blue")]


def from_slicer(fields: Mapping[str, str]) -> dict[int, Label]:
    """The segments of a 3D Slicer ``.seg.nrrd``, from its header fields; empty for any other NRRD."""
    rows = []
    for key, value in fields.items():
        match = re.fullmatch(r"Segment(\d+)_LabelValue", key)
        if not match or not value.strip().isdigit():
            continue
        name = fields.get(f"Segment{match[1]}_Name", "")
        parts = fields.get(f"Segment{match[1]}_Color", "").split()
        try:
            color = [round(float(part) * 255) for part in parts] if len(parts) == 3 else None
        except ValueError:
            color = None
        rows.append((int(value), name, color))
    return _numbered(rows)


def _numbered(rows: list[tuple[int, str, Any]]) -> dict[int, Label]:
    labels = unique(make_label(number, title, color) for number, title, color in sorted(rows) if number > 0)
    return {label.id: label for label in labels}
