"""Text headers of NRRD (teem) and MetaImage files, for what ITK's readers pass over or report on stderr."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

from medvit.errors import SourceError

__all__ = ["header_fields", "require_all_bytes"]

_LONGEST_HEADER = 1 << 20
"""Largest size of the text header of an NRRD or MetaImage, in bytes."""


def header_fields(path: Path, kind: str) -> dict[str, str]:
    """Read the fields of the text header of an NRRD or MetaImage; the keys are in lower case.

    Args:
        path: the file; of an image in two files, the header.
        kind: "nrrd" or "metaimage".
    """
    with path.open("rb") as file:
        block = file.read(_LONGEST_HEADER)
    end = block.find(b"ElementDataFile") if kind == "metaimage" else _first_blank(block)
    lines = (block if end < 0 else block[:end]).decode("utf-8", "replace").splitlines()
    sign = "=" if kind == "metaimage" else ":"
    return {key.strip().lower(): value.strip() for key, _, value in (line.partition(sign) for line in lines)}


_ELEMENT_BYTES = {"char": 1, "uchar": 1, "short": 2, "ushort": 2, "int": 4, "uint": 4, "float": 4, "double": 8}
"""Bytes of MetaImage's element types, without the MET_ before their names."""


def require_all_bytes(path: Path, fields: Mapping[str, str]) -> None:
    """Refuse an uncompressed MetaImage in one file that is cut off, before ITK does so with a text of its own on stderr.

    Args:
        path: the file.
        fields: its header, as ``header_fields`` reads it.

    Raises:
        SourceError: the file is shorter than its header states.
    """
    kind = fields.get("elementtype", "").removeprefix("MET_").lower()
    sides = [int(side) for side in fields.get("dimsize", "").split() if side.isdigit()]
    if kind not in _ELEMENT_BYTES or not sides or fields.get("compresseddata", "False").lower() == "true":
        return
    with path.open("rb") as file:
        block = file.read(_LONGEST_HEADER)
    match = re.search(rb"ElementDataFile\s*=\s*LOCAL\s*\n", block)
    if match is None:
        return
    wanted = math.prod(sides) * _ELEMENT_BYTES[kind] * int(fields.get("elementnumberofchannels", "1"))
    there = path.stat().st_size - match.end()
    if there < wanted:
        raise SourceError(
            f"{path.name}, which cannot be read: it is cut off ({there} of {wanted} bytes of voxels)",
            "a complete image file is needed",
            "Export or copy it again.",
        )


def _first_blank(block: bytes) -> int:
    places = [place for place in (block.find(b"\n\n"), block.find(b"\n\r\n")) if place >= 0]
    return min(places, default=-1)
