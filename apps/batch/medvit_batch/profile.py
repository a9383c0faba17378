"""The Basic Application Level Confidentiality Profile of DICOM, PS3.15 table E.1-1, as ``ps3_15_e1.tsv`` has it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

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

    def action(self) -> str:
        """The one that leaves every kind of object valid: a dummy may stand wherever a value may, nothing does not."""
        return next(action for action in "UDZX" if action in self.actions)


@lru_cache(maxsize=1)
def profile() -> dict[int, Rule]:
    """The rule of each tag that the profile names."""
    text = files("medvit_batch").joinpath("ps3_15_e1.tsv").read_text(encoding="utf-8")
    rules = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        tag, _, actions, kept = line.split("\t")
        options = frozenset(_COLUMN.get(word, word) for word in kept.split(",") if word != "-")
        rules[int(tag, 16)] = Rule(actions, options)
    return rules


def method_codes(retained: tuple[str, ...]) -> list[tuple[str, str]]:
    """(code, meaning) of the profile and of each option that was followed."""
    return [_CODES[name] for name in ("", *(option for option in RETAINABLE if option in retained))]
