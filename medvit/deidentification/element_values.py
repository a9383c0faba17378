"""Removal of identifiers from the text of DICOM elements, so that each element stays valid."""

from __future__ import annotations

from pydicom import DataElement, Dataset
from pydicom.multival import MultiValue

from medvit.deidentification.header_identifiers import texts_of
from medvit.deidentification.identifiers import Identifiers
from medvit.deidentification.known_words import TERMS
from medvit.io.dicom.header import AttributeType

__all__ = ["TEXT", "cleaned_value", "whole_items"]

TEXT = frozenset("AE CS LO LT SH ST UC UT".split())
"""Value representations that contain words."""

_TYPES = ("ImageType", "FrameType")
_LEADING = (("ORIGINAL", "DERIVED", "MIXED"), ("PRIMARY", "SECONDARY"))
"""Valid first two values of an image type; a third or later value that names a person becomes OTHER."""

_LEFT = {"CS": "OTHER"}
_CODED = ("CodeValue", "LongCodeValue", "URNCodeValue", "CodingSchemeDesignator", "CodeMeaning")
"""Attributes of a code; they get no dummy value, since an item without a valid code is removed."""

_REFERENCES = {
    "ReferencedImageSequence", "SourceImageSequence", "ReferencedInstanceSequence", "ReferencedSOPSequence", "ReferencedPatientSequence",
}  # fmt: skip
_REFERENCE = ("ReferencedSOPClassUID", "ReferencedSOPInstanceUID")


def cleaned_value(element: DataElement, known: Identifiers, type_: AttributeType | None) -> DataElement | None:
    """Remove identifiers from a text element, value by value.

    Args:
        element: an element with a value representation in ``TEXT``.
        known: the identifiers to remove.
        type_: the attribute's type in this kind of object; None within items.

    Returns:
        The element with the same number of values; None where no text remains and the element may be absent.
    """
    texts = texts_of(element.value)
    if element.keyword in _TYPES:
        return DataElement(element.tag, "CS", [_type_value(text, at, known) for at, text in enumerate(texts)] or None)
    cleaned = [text if _term(element.VR, text) else known.cut(text) for text in texts]
    if cleaned == texts:
        return _copy(element)
    if any(cleaned):
        return DataElement(element.tag, element.VR, cleaned)
    if type_ == "1" or (type_ is None and element.VR != "CS" and element.keyword not in _CODED):
        return DataElement(element.tag, element.VR, _LEFT.get(element.VR, "REMOVED"))
    return DataElement(element.tag, element.VR, None) if type_ == "2" else None


def whole_items(keyword: str, items: list[Dataset]) -> list[Dataset]:
    """Keep only complete items: codes with value, scheme and meaning; references with both UIDs."""
    if keyword.endswith("CodeSequence"):
        return [item for item in items if _whole_code(item)]
    if keyword in _REFERENCES:
        return [item for item in items if all(item.get(name) for name in _REFERENCE)]
    return items


def _whole_code(item: Dataset) -> bool:
    if not item.get("CodeMeaning"):
        return False
    return bool(
        item.get("URNCodeValue")
        or (item.get("CodingSchemeDesignator") and (item.get("CodeValue") or item.get("LongCodeValue")))
    )


def _copy(element: DataElement) -> DataElement:
    value = element.value
    return DataElement(element.tag, element.VR, list(value) if isinstance(value, MultiValue) else value)


def _term(vr: str, text: str) -> bool:
    return vr == "CS" and text in TERMS


def _type_value(text: str, at: int, known: Identifiers) -> str:
    if (at < len(_LEADING) and text in _LEADING[at]) or text in TERMS or known.cut(text) == text:
        return text
    return ("DERIVED", "SECONDARY")[at] if at < len(_LEADING) else "OTHER"
