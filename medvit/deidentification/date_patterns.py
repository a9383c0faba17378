"""Search for dates in text: numbers in any usual order, and month names in the languages of headers."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from datetime import date

__all__ = ["DateFinder"]

_MONTHS = (
    "january januar jan janvier janv enero ene gennaio gen janeiro januari stycznia января ocak",
    "february februar feb fevrier fevr febrero febbraio fevereiro fev februari feber lutego февраля subat",
    "march marz maerz mar mrz mars marzo marco maart mrt marca марта mart",
    "april apr avril avr abril abr aprile kwietnia апреля nisan",
    "may mai mayo maggio mag maio mei maj maja мая mayis",
    "june juni jun juin junio giugno giu junho czerwca июня haziran",
    "july juli jul juillet juil julio luglio lug julho lipca июля temmuz",
    "august aug aout agosto ago augustus augusti agustus sierpnia августа agustos",
    "september sept sep septembre septiembre settembre set setembro wrzesnia сентября eylul",
    "october oktober oct okt octobre octubre ottobre ott outubro out pazdziernika октября ekim",
    "november nov novembre noviembre novembro listopada ноября kasim",
    "december dezember dec dez decembre diciembre dic dicembre dezembro desember des grudnia декабря aralik",
)
"""Names and abbreviations of each month, without accents: English, German, French, Spanish, Italian, Portuguese, Dutch,
Swedish, Polish, Russian and Turkish.
"""

_NUMBER = {name: number for number, names in enumerate(_MONTHS, 1) for name in names.split()}
_NAME = "|".join(sorted(_NUMBER, key=len, reverse=True))
_GAP = r"[\s.,_/\-^]{0,8}"
_DAY = r"(?P<day>\d{1,2})(?:st|nd|rd|th|er|ter|ten|\.|º|ª)?"
_YEAR = r"(?P<year>(?:1[89]|20)\d\d)"
_SHORT = r"(?P<short>'?\d\d)"
_BEFORE, _AFTER = r"(?<![^\W_])", r"(?![^\W_])"
_OF = r"(?:of|de|del|di|do|den)?"

_WRITTEN = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"(?<!\d){_DAY}{_GAP}{_OF}{_GAP}(?P<month>{_NAME}){_GAP}{_OF}{_GAP}(?:{_YEAR}|{_SHORT})(?!\d)",
        rf"{_BEFORE}(?P<month>{_NAME}){_GAP}(?:the{_GAP})?{_DAY}{_GAP}{_YEAR}(?!\d)",
        rf"(?<!\d){_YEAR}{_GAP}(?P<month>{_NAME}){_GAP}{_DAY}(?![^\W_])",
        rf"{_BEFORE}(?P<month>{_NAME}){_GAP}{_OF}{_GAP}{_YEAR}(?!\d)",
        rf"(?<!\d){_DAY}{_GAP}{_OF}{_GAP}(?P<month>{_NAME}){_AFTER}",
        rf"{_BEFORE}(?P<month>{_NAME}){_GAP}(?:the{_GAP})?{_DAY}(?![^\W_]|\.\d)",
    )
)
"""Patterns with a month name. Without a four-digit year, an abbreviated month name is accepted only in a known day."""

_NO_YEAR = _WRITTEN[-2:]
_FULL_NAME = 4
_SEPARATED = re.compile(r"(?<![\d.])(\d{1,4})( ?[\-./_,:·\u2013\u2014] ?| )(\d{1,2})\2(\d{1,4})(?!\d|\.\d)")
_COMPACT = re.compile(r"(?<!\d)(?:1[89]|20)\d{6}(?:T?\d{4}(?:\d\d)?)?(?!\d)")
_ROMAN = re.compile(r"(?<!\d)\d{1,2}[ ./-]{1,2}(?:I{1,3}|I?V|VI{1,3}|I?X|XI{1,2})[ ./-]{1,2}(?:1[89]|20)\d\d(?!\d)")
_MONTH_AND_YEAR = re.compile(r"(?<![\d./-])(\d{1,2}) ?[./-] ?((?:1[89]|20)\d\d)(?!\d|[./-]\d)")
_EAST = re.compile(r"(?:明治|大正|昭和|平成|令和)?(?:\d{1,4}|元)\s*[年년]\s*\d{1,2}\s*[月월]\s*\d{1,2}\s*[日일]")
_CENTURY = 100


class DateFinder:
    """Search for dates in text, with the help of days known from headers.

    Dates with a four-digit year are always found. Shorter and more ambiguous forms (12.03.61, 120361, "12 Mar") are
    found only where they name a known day; otherwise version numbers and settings would count as dates.
    """

    def __init__(self, days: Iterable[date] = ()) -> None:
        """Store the known days."""
        self._days = frozenset(days)
        forms = {
            day.strftime(form) for day in self._days for form in ("%d%m%Y", "%m%d%Y", "%y%m%d", "%d%m%y", "%m%d%y")
        }
        self._compact = re.compile(rf"(?<!\d)(?:{'|'.join(sorted(forms))})(?!\d)") if forms else None

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Yield (start, end) of each date; spans may overlap."""
        yield from self._numbers(text)
        yield from self._names(text)

    def _numbers(self, text: str) -> Iterator[tuple[int, int]]:
        for match in _COMPACT.finditer(text):
            if _exists(int(match[0][:4]), int(match[0][4:6]), int(match[0][6:8])):
                yield match.span()
        for match in _SEPARATED.finditer(text):
            if self._is_date(match[1], match[3], match[4], match[2].strip()):
                yield match.span()
        for pattern in (_EAST, _ROMAN):
            yield from (match.span() for match in pattern.finditer(text))
        for match in _MONTH_AND_YEAR.finditer(text):
            if any((day.month, day.year) == (int(match[1]), int(match[2])) for day in self._days):
                yield match.span()
        for match in self._compact.finditer(text) if self._compact else ():
            yield match.span()

    def _is_date(self, first: str, second: str, third: str, separator: str) -> bool:
        one, two, three = int(first), int(second), int(third)
        if separator == "," and not any(
            sorted((one, two, three)) == sorted((d.day, d.month, d.year)) for d in self._days
        ):
            return False  # a list of numbers
        if separator == ":":  # dates of cameras; other texts with colons are times
            return len(first) == 4 and len(second) == len(third) == 2 and _year(one) and _exists(one, two, three)
        if len(first) == 4:
            return len(third) <= 2 and _year(one) and (_exists(one, two, three) or _exists(one, three, two))
        if len(third) == 4 and len(first) <= 2:
            return _year(three) and (_exists(three, two, one) or _exists(three, one, two))
        if len(first) > 2 or (len(third) != 2 and len(first) != 2):
            return False
        candidates = ((three, two, one), (three, one, two), (one, two, three))
        if separator == "/" and len(third) == 2 and any(_exists(2000 + y, m, d) for y, m, d in candidates[:2]):
            return True
        known = {(day.year % _CENTURY, day.month, day.day) for day in self._days}
        return any(candidate in known for candidate in candidates)

    def _names(self, text: str) -> Iterator[tuple[int, int]]:
        plain = _without_accents(text)
        for pattern in _WRITTEN:
            for match in pattern.finditer(plain):
                found = match.groupdict()
                month, day = _NUMBER[found["month"].lower()], int(found.get("day") or 1)
                if not _exists(2000, month, day):
                    continue
                vague = pattern in _NO_YEAR or found.get("short")
                if vague and len(found["month"]) < _FULL_NAME and not self._knows(month, day):
                    continue  # "2 set 16" may be a setting
                yield match.span()

    def _knows(self, month: int, day: int) -> bool:
        return any((known.month, known.day) == (month, day) for known in self._days)


def _without_accents(text: str) -> str:
    """Remove the accents of a text without changing its number of characters."""
    return "".join(unicodedata.normalize("NFD", character)[:1] or character for character in text)


def _year(number: int) -> bool:
    return 1800 <= number < 2100


def _exists(year: int, month: int, day: int) -> bool:
    try:
        date(year, month, day)
    except ValueError:
        return False
    return True
