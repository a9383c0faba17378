"""Conversion of header values to words and numbers, without pydicom's full conversion where plain bytes suffice."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from math import isfinite

from pydicom.datadict import tag_for_keyword

from medvit.io.dicom.header.parser import DamagedError, Elements

__all__ = ["HeaderValues", "finite", "is_uid", "tag_of"]


@lru_cache(maxsize=256)
def tag_of(keyword: str) -> int:
    """Return the tag of an attribute."""
    tag = tag_for_keyword(keyword)
    assert tag is not None, keyword
    return int(tag)


class HeaderValues:
    """Fast access to the values of one header, by keyword."""

    def __init__(self, elements: Elements) -> None:
        self.elements = elements
        self._found = elements.values

    def has(self, keyword: str) -> bool:
        """Return True if the attribute is present, even if empty."""
        return tag_of(keyword) in self._found

    def text(self, keyword: str) -> str:
        """Return all values of an attribute as one text; empty where absent."""
        return _joined(self.texts(keyword))

    def texts(self, keyword: str) -> tuple[str, ...]:
        """Return the values of an attribute, without padding; no values where it is absent or all are empty."""
        return _texts(self._found.get(tag_of(keyword)))

    def stated(self, keywords: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
        """Return (keyword, text) for each attribute that has a value; headers with equal values share one tuple."""
        key = tuple([self._found.get(tag) for tag in _tags(keywords)])
        try:
            return _stated(keywords, key)
        except TypeError:  # a list of pydicom, which is not hashable
            return _stated.__wrapped__(keywords, key)

    def required_numbers(self, keyword: str, count: int) -> tuple[float, ...] | None:
        """Return the numbers of an attribute that geometry or values need; None where it is absent or has another
        count.

        Raises:
            DamagedError: the values are not numeric, or there are several where one is expected.
        """
        words = self.texts(keyword)
        if len(words) != count:
            if count == 1 and words:
                raise DamagedError(f"its {keyword} has {len(words)} values")
            return None
        numbers = finite(words)
        if numbers is None:
            raise DamagedError(f"its {keyword} is not a finite number")
        return numbers

    def number(self, keyword: str) -> float | None:
        """Return an optional number; None where it is absent or not numeric."""
        words = self.texts(keyword)
        numbers = finite(words) if len(words) == 1 else None
        return numbers[0] if numbers else None

    def whole(self, keyword: str, default: int) -> int:
        """Return an unsigned short, or an integer string, as int."""
        value = self._found.get(tag_of(keyword))
        if type(value) is int:
            return value
        number = self.number(keyword)
        return default if number is None else int(number)


@lru_cache(maxsize=8192)
def is_uid(text: str) -> bool:
    """Return True for a UID that objects can refer to: digits and dots, at most 64 (PS3.5 9.1).

    Leading zeros, which some writers produce, are accepted.
    """
    return re.fullmatch(r"[0-9.]{1,64}", text) is not None


@lru_cache(maxsize=16)
def _tags(keywords: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(map(tag_of, keywords))


@lru_cache(maxsize=4096)
def _stated(keywords: tuple[str, ...], values: tuple[object, ...]) -> tuple[tuple[str, str], ...]:
    return tuple((k, _joined(texts)) for k, v in zip(keywords, values, strict=True) if (texts := _texts(v)))


def _texts(value: object) -> tuple[str, ...]:
    if type(value) is bytes:
        return _words(value)
    if value is None:
        return ()
    several = value if isinstance(value, Iterable) and not isinstance(value, str) else [value]
    words = tuple("" if word is None else str(word).strip(" \0") for word in several)
    return words if any(words) else ()


@lru_cache(maxsize=1024)
def _joined(words: tuple[str, ...]) -> str:
    return "\\".join(words)


@lru_cache(maxsize=8192)
def _words(value: bytes) -> tuple[str, ...]:
    """Split the values of a string element; cached, since most slices repeat the same values and can share one tuple."""
    words = tuple(word.strip(" \0") for word in value.decode("latin-1").split("\\"))
    return words if any(words) else ()


@lru_cache(maxsize=4096)
def finite(words: tuple[str, ...]) -> tuple[float, ...] | None:
    """Convert words to finite numbers; return None where one is not. Cached, since thousands of planes share the same
    values.
    """
    try:
        numbers = tuple(map(float, words))
    except ValueError:
        return None
    return numbers if all(map(isfinite, numbers)) else None
