"""The Basic Application Level Confidentiality Profile of DICOM, PS3.15 table E.1-1, read from ``ps3_15_e1.tsv``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

from pydicom.datadict import tag_for_keyword

from medvit.io.dicom.header import AttributeType

__all__ = ["RETAINABLE", "Rule", "method_codes", "profile"]

RETAINABLE = ("shifted-dates", "device", "institution", "characteristics")
"""Supported options of the profile; without any, every attribute of the profile is removed or replaced."""

_COLUMN = {"dates": "shifted-dates"}
_CODES = {
    "": ("113100", "Basic Application Confidentiality Profile"),
    "shifted-dates": ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
    "characteristics": ("113108", "Retain Patient Characteristics Option"),
    "device": ("113109", "Retain Device Identity Option"),
    "institution": ("113112", "Retain Institution Identity Option"),
}
"""Codes of PS3.16 CID 7050."""


@dataclass(frozen=True, slots=True)
class Rule:
    """The treatment of an attribute.

    Attributes:
        actions: one of "X" (remove), "Z" (empty), "D" (dummy value), "U" (another UID), or several of them joined by a
            slash, among which the kind of object decides.
        kept_under: options under which the attribute is kept; its dates are then shifted.
    """

    actions: str
    kept_under: frozenset[str]

    def action(self, type_: AttributeType | None = None, sequence: bool = False) -> str:
        """Choose the action that keeps the object valid.

        Args:
            type_: the attribute's type in this kind of object. None where unknown, as within items: then a dummy value
                is used, which is always allowed.
            sequence: True for a sequence. A sequence has no dummy value, and may be empty only where its type is 2;
                otherwise it is removed, even if the table says to empty it.
        """
        if "U" in self.actions:
            return "U"
        if sequence:
            return "Z" if type_ == "2" and self.actions != "X" else "X"
        if type_ == "3" and self.actions == "Z":
            return "X"  # not required in this kind of object
        wanted = {"1": "DZX", "2": "ZDX", "3": "XZD"}.get(type_ or "1", "DZX")
        return next(action for action in wanted if action in self.actions)


_BEYOND = (
    "PatientBirthDateInAlternativeCalendar PatientDeathDateInAlternativeCalendar PatientAlternativeCalendar "
    "EncryptedAttributesSequence MACParametersSequence DigitalSignaturesSequence DataSetTrailingPadding RetrieveURL RetrieveURI "
    "PlacerOrderNumberProcedure FillerOrderNumberProcedure PlacerOrderNumberImagingServiceRequestRetired "
    "FillerOrderNumberImagingServiceRequestRetired CommentsOnTheScheduledProcedureStep PixelDataProviderURL"
).split()
"""Attributes to remove that the table lacks: they identify a person, or contain the originals of such attributes."""


@lru_cache(maxsize=1)
def profile() -> dict[int, Rule]:
    """Return the rule of each tag in the profile, and of the tags that medvit adds."""
    text = files("medvit.deidentification").joinpath("ps3_15_e1.tsv").read_text(encoding="utf-8")
    rules = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        tag, _, actions, kept = line.split("\t")
        options = frozenset(_COLUMN.get(word, word) for word in kept.split(",") if word != "-")
        rules[int(tag, 16)] = Rule(actions, options)
    for keyword in _BEYOND:
        place = tag_for_keyword(keyword)
        assert place is not None
        rules[int(place)] = Rule("X", frozenset())
    return rules


def method_codes(retained: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return (code, meaning) of the profile and of each option that was followed."""
    return [_CODES[name] for name in ("", *(option for option in RETAINABLE if option in retained))]
