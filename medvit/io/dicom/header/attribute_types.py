"""Types of attributes at the top level of image objects (PS3.3): required with a value, required but possibly empty,
optional.

``attribute_types.tsv`` lists the attributes that are not Type 3 in every object and that medvit needs to know.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from importlib.resources import files
from typing import Literal

from pydicom import Dataset
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import empty_value_for_VR

__all__ = ["PATIENT_STUDY_TYPE_2", "TYPE_2", "AttributeType", "add_empty", "attribute_type"]

PATIENT_STUDY_TYPE_2 = tuple(
    "PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime AccessionNumber ReferringPhysicianName StudyID".split()
)
"""Type 2 attributes of patient and study, which every object copies."""

TYPE_2 = (*PATIENT_STUDY_TYPE_2, "SeriesNumber", "InstanceNumber")
"""Type 2 attributes of every image: present, may be empty."""

AttributeType = Literal["1", "2", "3"]
"""Type of an attribute.

1: present with a value; 2: present, may be empty; 3: optional. A conditional type (1C, 2C) counts as the type without
C.
"""

_STORAGE = "1.2.840.10008.5.1.4.1.1."


def attribute_type(sop_class: str, keyword: str) -> AttributeType:
    """Look up the type of an attribute.

    Args:
        sop_class: the object's SOPClassUID; an unknown class gets the strictest type of all image classes.
        keyword: the attribute's keyword.

    Returns:
        "1", "2" or "3"; "3" for an attribute that the object does not define.
    """
    row = _table().get(keyword)
    if row is None:
        return "3"
    common, others = row
    if sop_class.removeprefix(_STORAGE) not in _classes():
        return min((common, *others.values()))
    return others.get(sop_class.removeprefix(_STORAGE), common)


def add_empty(dataset: Dataset, keywords: Iterable[str]) -> None:
    """Add Type 2 attributes that a data set lacks, without a value (PS3.5 7.4.3)."""
    for keyword in keywords:
        if keyword not in dataset:
            setattr(dataset, keyword, empty_value_for_VR(dictionary_VR(keyword)))


@lru_cache(maxsize=1)
def _lines() -> tuple[str, ...]:
    text = files("medvit.io.dicom.header").joinpath("attribute_types.tsv").read_text(encoding="utf-8")
    return tuple(line for line in text.splitlines() if not line.startswith("#"))


@lru_cache(maxsize=1)
def _classes() -> frozenset[str]:
    """Return the SOP classes of the table, without their common root, from its first line."""
    return frozenset(_lines()[0].split(","))


@lru_cache(maxsize=1)
def _table() -> dict[str, tuple[AttributeType, dict[str, AttributeType]]]:
    table: dict[str, tuple[AttributeType, dict[str, AttributeType]]] = {}
    for line in _lines()[1:]:
        keyword, common, exceptions = line.split("\t")
        others: dict[str, AttributeType] = {}
        for group in [] if exceptions == "-" else exceptions.split(";"):
            kind, _, classes = group.partition("=")
            others |= {name: _type(kind) for name in classes.split(",")}
        table[keyword] = _type(common), others
    return table


def _type(text: str) -> AttributeType:
    return "1" if text == "1" else "2" if text == "2" else "3"
