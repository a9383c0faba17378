"""The Basic Application Level Confidentiality Profile of DICOM, PS3.15 table E.1-1, as ``ps3_15_e1.tsv`` has it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

from pydicom.datadict import tag_for_keyword

from medvit.io.dicom.header import AttributeType

__all__ = ["RETAINABLE", "Rule", "method_codes", "profile"]

RETAINABLE = ("shifted-dates", "device", "institution", "characteristics")
"""Options of the profile that can be asked for; without any, everything goes that the profile names."""

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
    """What is done to an attribute.

    Attributes:
        actions: one of "X" (taken away), "Z" (emptied), "D" (a dummy), "U" (another UID), or several with a stroke between them,
            of which the kind of object decides.
        kept_under: options under which it stays; its dates are shifted then.
    """

    actions: str
    kept_under: frozenset[str]

    def action(self, type_: AttributeType | None = None, sequence: bool = False) -> str:
        """Return the action that leaves the object valid.

        Args:
            type_: the attribute's type in this kind of object. None where it is not known, as within items: then a dummy is taken,
                which may stand wherever a value may.
            sequence: whether the attribute is a sequence. It has no dummy, and is empty only where its type is 2: then even an
                action of the table that would empty it takes it away.
        """
        if "U" in self.actions:
            return "U"
        if sequence:
            return "Z" if type_ == "2" and self.actions != "X" else "X"
        if type_ == "3" and self.actions == "Z":
            return "X"  # nothing asks for it in this kind of object
        wanted = {"1": "DZX", "2": "ZDX", "3": "XZD"}.get(type_ or "1", "DZX")
        return next(action for action in wanted if action in self.actions)


_BEYOND = (
    "PatientBirthDateInAlternativeCalendar PatientDeathDateInAlternativeCalendar PatientAlternativeCalendar "
    "EncryptedAttributesSequence MACParametersSequence DigitalSignaturesSequence DataSetTrailingPadding RetrieveURL RetrieveURI "
    "PlacerOrderNumberProcedure FillerOrderNumberProcedure PlacerOrderNumberImagingServiceRequestRetired "
    "FillerOrderNumberImagingServiceRequestRetired CommentsOnTheScheduledProcedureStep PixelDataProviderURL"
).split()
"""Attributes without a row in the table that identify, or that hold the originals of those that do: taken away."""


@lru_cache(maxsize=1)
def profile() -> dict[int, Rule]:
    """Return the rule of each tag that the profile names, and of those that go beyond it."""
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
    """(code, meaning) of the profile and of each option that was followed."""
    return [_CODES[name] for name in ("", *(option for option in RETAINABLE if option in retained))]
