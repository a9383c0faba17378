"""Settings that a person writes in a bundle's training configs, checked by pydantic when they are made."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import wraps
from typing import Annotated, Any, TypeVar, dataclass_transform

from pydantic import AfterValidator, ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass
from pydantic_core import ErrorDetails, PydanticCustomError

from medvit.errors import BundleError

__all__ = [
    "Count",
    "Counts",
    "Interval",
    "NotNegative",
    "NotNegativeRange",
    "Positive",
    "PositiveRange",
    "Range",
    "Rising",
    "Share",
    "WholeNumber",
    "checked_settings",
]

_Settings = TypeVar("_Settings")


def _in_order(found: tuple[float, float]) -> tuple[float, float]:
    if not found[0] <= found[1]:
        raise PydanticCustomError("range", "the first number must not be above the second")
    return found


def _wide(found: tuple[float, float]) -> tuple[float, float]:
    if not found[0] < found[1]:
        raise PydanticCustomError("interval", "a lower and a higher number are needed")
    return found


def _rising(found: tuple[float, ...]) -> tuple[float, ...]:
    if not all(low < high for low, high in itertools.pairwise(found)):
        raise PydanticCustomError("rising", "rising numbers are needed")
    return found


Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Counts = Annotated[tuple[Count, ...], Field(min_length=1)]
WholeNumber = Annotated[int, Field(ge=0)]
Interval = Annotated[tuple[float, float], AfterValidator(_wide)]
Rising = Annotated[tuple[float, ...], AfterValidator(_rising)]
Range = Annotated[tuple[float, float], AfterValidator(_in_order)]
NotNegativeRange = Annotated[tuple[NotNegative, float], AfterValidator(_in_order)]
PositiveRange = Annotated[tuple[Positive, float], AfterValidator(_in_order)]


@dataclass_transform(frozen_default=True, kw_only_default=True)
def checked_settings(kind: type[_Settings]) -> type[_Settings]:
    """Make a class a frozen keyword-only dataclass that raises BundleError for a value that is not allowed."""
    made: Any = dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))(kind)
    check = made.__init__

    @wraps(check)
    def make(self: Any, **values: Any) -> None:
        try:
            check(self, **values)
        except ValidationError as error:
            raise _refusal(kind.__name__, error.errors()) from None

    made.__init__ = make
    checked: type[_Settings] = made
    return checked


def _refusal(name: str, mistakes: Sequence[ErrorDetails]) -> BundleError:
    first = next((mistake for mistake in mistakes if mistake["type"] == "unexpected_keyword_argument"), mistakes[0])
    place, remedy = ".".join(map(str, (name, *first["loc"]))), "Correct the config of the bundle."
    if first["type"] == "unexpected_keyword_argument":
        return BundleError(f"the setting {place}", f"{name} has no such setting", remedy)
    if first["type"] == "missing":
        return BundleError(f"no {place}", "the setting has no default", remedy)
    found = f"{place} = {first['input']!r}" if first["loc"] else f"values of {name} that do not fit together"
    return BundleError(found, first["msg"].replace("Input should", "it must"), remedy)
