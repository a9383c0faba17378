"""Units of length that image headers state, and their conversion to millimetres."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medvit.errors import GeometryError
from medvit.io.geometry import Affine
from medvit.io.text_headers import header_fields

__all__ = ["LengthUnit", "header_unit", "nifti_unit", "scaled"]

_NIFTI = {1: ("metre", 1000.0), 2: ("millimetre", 1.0), 3: ("micron", 0.001)}
"""Unit and its length in millimetres, by the spatial code of NIfTI's ``xyzt_units``."""

_SPACE_BITS = 0x07
"""Bits of ``xyzt_units`` that hold the unit of space; the others hold the unit of time."""

_WORDS = {
    "millimetre": (1.0, "mm millimeter millimeters millimetre millimetres"),
    "micron": (0.001, "um \u00b5m \u03bcm micron microns micrometer micrometers micrometre micrometres"),
    "metre": (1000.0, "m meter meters metre metres"),
    "centimetre": (10.0, "cm centimeter centimeters centimetre centimetres"),
    "nanometre": (1e-6, "nm nanometer nanometers nanometre nanometres"),
}
_UNITS = {word: (name, factor) for name, (factor, words) in _WORDS.items() for word in words.split()}

_NONE = ("", "?", "none", "unknown", "???")
"""Words of NRRD and MetaImage headers that mean an unstated unit."""


@dataclass(frozen=True)
class LengthUnit:
    """The unit of length of a header.

    Attributes:
        name: in words; empty where the header states none.
        to_mm: millimetres in one unit.
        unknown: the header's own word for a unit that is not known; its lengths are taken as millimetres.
    """

    name: str
    to_mm: float = 1.0
    unknown: str = ""

    def notes(self, sides_mm: tuple[float, float, float]) -> list[str]:
        """Describe a conversion or an unknown unit; return no note for millimetres."""
        if self.unknown:
            return [
                f"The header states lengths in {self.unknown!r}, which is not a known unit; millimetres were assumed."
            ]
        if self.to_mm == 1.0:
            return []
        sides = " x ".join(f"{side:.4g}" for side in sides_mm)
        return [f"The header states lengths in {self.name}s; they were converted to millimetres: voxels of {sides} mm."]


def nifti_unit(code: int) -> LengthUnit:
    """Decode the unit of space in NIfTI's ``xyzt_units``; ignore the bits of the unit of time."""
    space = code & _SPACE_BITS
    if space in _NIFTI:
        return LengthUnit(*_NIFTI[space])
    return LengthUnit("", unknown="" if space == 0 else f"code {space}")


def header_unit(path: Path, kind: str) -> LengthUnit:
    """Read the unit that an NRRD or MetaImage header states; ITK's reader ignores it.

    Args:
        path: the file; of an image in two files, the header.
        kind: "nrrd" or "metaimage".

    Raises:
        GeometryError: the axes have different units.
    """
    fields = header_fields(path, kind)
    if kind == "metaimage":
        found = {fields.get("distanceunits", "")}
    else:
        text = fields.get("space units", fields.get("units", ""))
        found = set(text.split('"')[1::2] if '"' in text else text.split())
    found = {word.strip().lower() for word in found} - set(_NONE)
    if not found:
        return LengthUnit("")
    units = {_UNITS.get(word, (word, 0.0)) for word in found}
    if len(units) > 1:
        raise GeometryError(
            f"axes in different units ({', '.join(sorted(found))}) in {path.name}",
            "one unit is needed",
            "Correct the header's units.",
        )
    ((name, factor),) = units
    return LengthUnit(name, factor) if factor else LengthUnit("", unknown=name)


def scaled(affine: Affine, factor: float) -> Affine:
    """Multiply the world coordinates of a voxel-to-world matrix by a factor."""
    return np.asarray(np.diag([factor, factor, factor, 1.0]) @ np.asarray(affine, dtype=np.float64))
