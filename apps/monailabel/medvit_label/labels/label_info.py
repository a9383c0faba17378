"""``label_info``: names of a label's numbers, as 3D Slicer, OHIF and MONAI Label's client send them."""

from __future__ import annotations

import re
from typing import Any

from medvit.io.labels import clean_name, printable_text
from medvit_label.errors import RequestError

__all__ = ["read_label_info"]

_NUMBERS = ("idx", "labelID", "label", "segmentIndex", "id", "value")
"""Keys under which clients send a segment's number: ``idx`` from 3D Slicer, ``segmentIndex`` from OHIF, the others from
MONAI Label.
"""

_LARGEST = 65535

_TOOLS = frozenset({"background", "foreground_scribbles", "background_scribbles"})
"""Segments of 3D Slicer's module that are not structures."""


def read_label_info(content: dict[str, Any]) -> dict[int, str] | None:
    """Return the name of each number of a label, as a client states them; None if it states none.

    Args:
        content: the request's ``params``.

    Raises:
        RequestError: the value is not a list of numbers with names, or two entries share a number or a name.
    """
    rows = content.get("label_info")
    if not rows:
        return None
    if not isinstance(rows, list):
        raise RequestError(
            f"label_info that is not a list ({type(rows).__name__})",
            "one entry for each segment is needed",
            'Send [{"name": "liver", "idx": 1}, ...].',
        )
    names: dict[int, str] = {}
    for row in rows:
        number, name = _number(row), _name(row)
        if number is None or not name:
            raise RequestError(
                f"an entry of label_info without a {'number' if number is None else 'name'} ({str(row)[:60]})",
                "both are needed",
                'Send {"name": "liver", "idx": 1}.',
            )
        if number == 0 or name.lower() in _TOOLS:
            continue
        if not 1 <= number <= _LARGEST:
            raise RequestError(
                f"the number {str(number)[:20]} of {name[:60]!r} in label_info",
                f"numbers are from 1 to {_LARGEST}",
                "Correct it.",
            )
        if number in names:
            raise RequestError(
                f"{names[number]!r} and {name!r} with the number {number} in label_info",
                "each number has one name",
                "Correct it.",
            )
        if clean_name(name, name) in {clean_name(other, other) for other in names.values()}:
            raise RequestError(
                f"two segments named {name!r} in label_info",
                "each label is one segment",
                "Merge them, or give each its own name.",
            )
        names[number] = name
    return names


def _number(row: Any) -> int | None:
    values = [row.get(key) for key in _NUMBERS] if isinstance(row, dict) else []
    for value in values:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if isinstance(value, float) and value.is_integer():
            return int(value)
        if isinstance(value, str) and re.fullmatch(r"\s*[0-9]{1,9}\s*", value):
            return int(value)
    return None


def _name(row: Any) -> str:
    values = [row.get(key) for key in ("name", "title", "label")] if isinstance(row, dict) else []
    words = [" ".join(printable_text(value).split()) for value in values if isinstance(value, str)]
    return next((word for word in words if word), "")
