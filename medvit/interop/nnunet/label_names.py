"""Names, codes and colours of an imported model's labels."""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from medvit.errors import BundleError
from medvit.io.labels import clean_name, make_label
from medvit.labels import Code, Label

__all__ = ["ANATOMICAL_STRUCTURE", "labels_of", "read_label_table"]

ANATOMICAL_STRUCTURE = Code(value="123037004", scheme="SCT", meaning="Anatomical Structure")
"""Category of a label whose anatomy is not known."""

_PRIVATE = "99MEDVIT"
"""Coding scheme of types that no standard code is known for."""


def labels_of(pairs: Sequence[tuple[str, int]], table: Mapping[int, Mapping[str, Any]]) -> tuple[Label, ...]:
    """Make the labels of a bundle from the names of an nnU-Net.

    Args:
        pairs: name and id of each label.
        table: changes by id, from ``read_label_table``.

    Returns:
        Labels that may be absent from an image, in the order of the ids. Names become lower-case ASCII with
        underscores; names that are equal then get their id. The original name is the title.

    Raises:
        BundleError: two labels have one id, or the table names an id that the model lacks or has a wrong value.

    Examples:
        >>> from medvit.interop.nnunet.label_names import labels_of
        >>> [label.name for label in labels_of([("Leber", 1), ("Niere, links", 2), ("niere links", 3)], {})]
        ['leber', 'niere_links_2', 'niere_links_3']
    """
    counts = Counter(number for _, number in pairs)
    repeated = [number for number, count in counts.items() if count > 1]
    if repeated:
        raise BundleError(
            f"label id {repeated[0]} twice in dataset.json", "each label needs its own", "Correct the file."
        )
    unknown = sorted(table.keys() - counts.keys())
    if unknown:
        raise BundleError(
            f"label id {unknown[0]} in the table of labels",
            f"the model has {', '.join(map(str, sorted(counts)))}",
            "Correct {table=...}.",
            option="table",
        )
    names = {number: clean_name(name, f"label_{number}") for name, number in pairs}
    shared = Counter(names.values())
    made = []
    for title, number in sorted(pairs, key=lambda pair: pair[1]):
        name = names[number] if shared[names[number]] == 1 else f"{names[number]}_{number}"
        code = Code(value=f"N{zlib.crc32(name.encode()):08X}", scheme=_PRIVATE, meaning=title[:64] or name)
        label = make_label(number, title, codes=(ANATOMICAL_STRUCTURE, code))
        fields = {
            **label.model_dump(),
            "name": name,
            "expected": "optional",
            **dict(table.get(number, {})),
            "id": number,
        }
        try:
            made.append(Label.model_validate(fields))
        except ValidationError as error:
            first = error.errors()[0]
            raise BundleError(
                f"{'.'.join(map(str, first['loc']))} of label {number} in the table of labels: {first['msg']}",
                remedy="Correct {table=...}.",
                option="table",
            ) from None
    again = [name for name, count in Counter(label.name for label in made).items() if count > 1]
    if again:
        raise BundleError(f"two labels named {again[0]}", "names must differ", "Correct {table=...}.", option="table")
    return tuple(made)


def read_label_table(path: Path) -> dict[int, dict[str, Any]]:
    """Read a JSON file with names, titles, colours and codes by label id.

    Args:
        path: ``{"1": {"name": "liver", "title": "Liver", "color": [220, 120, 90], "type": {"value": ..., "scheme":
            "SCT", "meaning": "Liver"}, "expected": "in_view"}}``; every field may be left out.

    Raises:
        BundleError: the file is missing or has another form.
    """
    try:
        content = json.loads(path.read_text())
        return {int(number): dict(fields) for number, fields in content.items()}
    except OSError as error:
        raise BundleError(
            f"no readable table of labels at {path}", remedy="Correct {table=...}.", option="table"
        ) from error
    except (ValueError, TypeError, AttributeError) as error:
        raise BundleError(
            f"{path.name}, which is no table of labels ({error})",
            'a JSON object from ids to fields is needed: {"1": {"name": "liver"}}',
            "Correct {table=...}.",
            option="table",
        ) from error
