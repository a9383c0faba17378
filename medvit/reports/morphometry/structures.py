"""Choice of measures for a label: by its code (PS3.16 CID 7603 and others), else by its usual name.

The bundle does not matter: any bundle whose labels mark femora has its femora measured.
"""

from __future__ import annotations

import re

from numpy import bool_
from numpy.typing import NDArray

from medvit.io import Affine, Surface
from medvit.labels import Label
from medvit.reports.morphometry.body import body_of
from medvit.reports.morphometry.femur import measure_femur
from medvit.reports.morphometry.hip import measure_hip
from medvit.reports.morphometry.measured import StructureMeasures
from medvit.reports.morphometry.rib import measure_rib
from medvit.reports.morphometry.vertebra import NAMES, measure_vertebra

__all__ = ["STRUCTURES", "measure_structure", "structure_of"]

_RIBS = "113197003 48535007 78247007 25888004 25523003 15339008 59558009 24915002 5953002 22565002 77644006 58830002 43993008"
_VERTEBRAE = (
    "51282000 39976000 113205007 5329002 36978003 36054005 87391001 "
    "64864005 53733008 1626008 73071006 56401006 45296009 62487009 11068009 82687006 7610001 12989004 23215003 "
    "66794005 14293000 36470004 11994002 49668003"
)
_CODES = {
    "femur": "71341001",
    "hip": "29836001",
    "rib": _RIBS,
    "vertebra": _VERTEBRAE,
}
"""SNOMED CT codes: femur; hip, which also codes hip bones; a rib and the first to the twelfth; a vertebra, C2 to L5.
The atlas (14806007) has no body.
"""

_NAMES = {
    "femur": r"femur",
    "hip": r"hip",
    "rib": r"rib",
    "vertebra": r"vertebrae?(?!_c1$)",
}
"""Patterns of label names, including TotalSegmentator's; the side may precede or follow."""

STRUCTURES = {
    "femur": (measure_femur, ("length_mm", "head_radius_mm", "offset_mm", "neck_shaft_deg", "epicondylar_breadth_mm")),
    "hip": (measure_hip, ("height_mm", "acetabular_radius_mm")),
    "rib": (measure_rib, ("arc_mm", "chord_mm")),
    "vertebra": (measure_vertebra, NAMES),
}
"""Function that measures a kind of bone, and the names of its measures."""

_BY_CODE = {code: structure for structure, codes in _CODES.items() for code in codes.split()}


def structure_of(label: Label) -> str | None:
    """Return the kind of bone that a label marks, or None where it has no measures of its own."""
    if label.type.scheme == "SCT" and label.type.value in _BY_CODE:
        return _BY_CODE[label.type.value]
    for structure, pattern in _NAMES.items():
        if re.match(rf"(?:left_|right_)?{pattern}(?:_(?:left|right|[ctl]?\d+))*$", label.name):
            return structure
    return None


def measure_structure(
    mask: NDArray[bool_], affine: Affine, label: Label, surface: Surface | None = None
) -> StructureMeasures | None:
    """Measure a label by its kind of bone, in mm and degrees; return None for other labels.

    Args:
        mask: (i, j, k), the label's voxels.
        affine: (4, 4), voxel index to RAS+ mm.
        label: the label, whose code or name gives the kind.
        surface: surface of the mask, if already computed.
    """
    structure = structure_of(label)
    if structure is None:
        return None
    measure, names = STRUCTURES[structure]
    body = body_of(mask, affine, surface) if mask.any() else "it was not found"
    if isinstance(body, str):
        return StructureMeasures(structure, absent=dict.fromkeys(names, body))
    return measure(body)
