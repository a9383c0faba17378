"""Search for and removal of the names, numbers and dates of a case in any text; independent of DICOM.

A name is found in any spelling of its letters (Müller, Mueller, MULLER), by its parts, joined, with initials, and
within longer words. A short name is found only at word boundaries: beside characters other than letters and digits, at
underscores, between letters and digits, and at changes of letter case. So "Bo" is found in "CT_BO_3", "Bo12" and
"ScanBo" but not in "Bone".
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property

from medvit.deidentification.contact_patterns import contact_spans
from medvit.deidentification.date_patterns import DateFinder
from medvit.deidentification.known_words import CLINICAL, FILLERS

__all__ = ["Identifiers", "alphabetic", "misread", "spellings", "words_of"]

_WORD = re.compile(r"(?:[^\W_][\u0300-\u036f\u3099\u309a]*)+")
_WITH_APOSTROPHE = re.compile(r"[^\W\d_]+(?:['\u2019\u2018\u02bc`\u00b4][^\W\d_]+)+")
_HONORIFICS = ("先生", "女士", "小姐", "太太", "さん", "様", "殿", "氏", "씨", "님")
_SEPARATOR = r"[\s_\-^,.;:/|+=&#*'\"()\[\]{}<>\\]"
_SEPARATORS = _SEPARATOR + "{0,64}"
_CUT = "\0"
_LEAD = re.compile(
    rf"(?i)(?<![^\W_])(?:(?:{'|'.join(sorted(FILLERS, key=len, reverse=True))}|[^\W\d_](?=\.)){_SEPARATOR}{{1,64}})+(?={_CUT})"
)
"""Pattern of words that only introduce an identifier, such as "for", "born" or "Dr", and of initials."""

_SEAM = re.compile(rf"({_SEPARATORS}){_CUT}(?:{_SEPARATORS}{_CUT})*({_SEPARATORS})")
_ENDS = re.compile(rf"\A{_SEPARATORS}|{_SEPARATORS}\Z")
_GERMAN = {"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss", "ø": "oe", "æ": "ae", "œ": "oe", "å": "aa", "þ": "th"}
_SINGLE = {"ß": "s", "ø": "o", "æ": "a", "œ": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "t", "\u0131": "i", "ħ": "h"}
_PAIRS = (("ae", "a"), ("oe", "o"), ("ue", "u"), ("aa", "a"), ("ss", "s"))
_SHORTEST_PLAIN = 4
"""Number of letters above which "ue" in a word is also read as "ü"."""

_INSIDE = 5
"""Smallest number of letters of a name that is searched within words."""

_LONGEST_GLUED = 40
_LONGEST_PART = 24
_LONGEST_SPLIT = 200
_OTHERS = CLINICAL | {"ct", "mr"}
_NUMBER = 4
"""Smallest number of digits of a number that is searched by itself; shorter ones may be slice counts or voltages."""

_CODE = 6
_RUN = re.compile(r"[\w .,^=/@:+-]{5,}")
_LEAST_OF_CODE = 3


def words_of(text: str) -> list[str]:
    """Split text into words of letters and digits; underscores separate words too."""
    return _WORD.findall(text)


def alphabetic(word: str) -> bool:
    """Return True if a word is in a script that separates words by spaces."""
    return all(ord(character) < 0x0E00 or 0x1E00 <= ord(character) < 0x2000 for character in word)


def spellings(word: str) -> frozenset[str]:
    """Return every form under which a word is compared: without accents, with ü as u, with ü as ue, and with ue as u."""
    folded = unicodedata.normalize("NFKC", word).casefold()
    folded = "".join(chr(ord(c) - 0x60) if "ァ" <= c <= "ヶ" else c for c in folded)  # katakana as hiragana
    single = _bare("".join(_SINGLE.get(c, c) for c in folded))
    double = _bare("".join(_GERMAN.get(c, c) for c in folded))
    found = {single, double}
    if len(double) > _SHORTEST_PLAIN:
        plain = double
        for pair, one in _PAIRS:
            plain = plain.replace(pair, one)
        found.add(plain)
    return frozenset(form for form in found if form)


def _bare(text: str) -> str:
    decomposed = unicodedata.normalize("NFD", text)
    return unicodedata.normalize("NFC", "".join(c for c in decomposed if not unicodedata.combining(c)))


@dataclass(frozen=True)
class Identifiers:
    """Words, numbers and days that identify the people and places of a case.

    Attributes:
        names: in every spelling; at least two letters, or a single character of a script without spaces.
        numbers: as written: patient ids, order numbers, telephone numbers.
        days: birth and study dates.
    """

    names: frozenset[str] = frozenset()
    numbers: frozenset[str] = frozenset()
    days: frozenset[date] = frozenset()
    _known: dict[str, str] = field(default_factory=dict, repr=False, compare=False)

    def __or__(self, other: Identifiers) -> Identifiers:
        """Return the union of two sets of identifiers."""
        return Identifiers(self.names | other.names, self.numbers | other.numbers, self.days | other.days)

    def cut(self, text: str) -> str:
        """Remove every identifier with its separators; return an empty text if only filler words remain.

        Text without identifiers is returned unchanged.
        """
        if text not in self._known:
            self._known[text] = self._without(text)
        return self._known[text]

    def number_in(self, text: str) -> bool:
        """Return True if a numeric value, as a whole, is a known number of six digits or more, or a known day."""
        digits = text.strip().partition(".")[0]
        return digits.isdigit() and len(digits) >= _CODE and bool(self.cut(digits) != digits)

    def within(self, content: bytes) -> bool:
        """Return True if bytes contain a long name or number in a usual encoding; short ones occur in any bytes by
        chance.
        """
        for encoding in ("latin-1", "utf-8", "utf-16-le"):
            for run in _RUN.findall(content.decode(encoding, "ignore")):
                long = self._long is not None and any(self._long.search(form) for form in spellings(run))
                if long or any(pattern.search(run) for pattern in self._long_numbers):
                    return True
        return False

    def _without(self, text: str) -> str:
        spans = sorted(span for source in self._searches(text) for span in source)
        if not spans:
            meant = misread(text)
            return self._without(meant) if meant and self._without(meant) != meant else text
        kept: list[str] = []
        at = 0
        for start, end in spans:
            kept += [text[at:start], _CUT] if start > at or not kept else []
            at = max(at, end)
        joined = _LEAD.sub("", "".join([*kept, text[at:]]).replace("\0\0", "\0"))
        tidy = _SEAM.sub(_seam, joined)
        tidy = _ENDS.sub("", tidy.replace(_CUT, ""))
        left = words_of(tidy)
        if all(word.casefold() in FILLERS or len(word) == 1 for word in left):
            return ""
        return self._without(tidy)  # the removal may have joined parts to a new match

    def _searches(self, text: str) -> Iterator[Iterable[tuple[int, int]]]:
        yield self._dates.spans(text)
        yield contact_spans(text)
        yield (match.span() for pattern in self._patterns for match in pattern.finditer(text))
        yield self._words(text)
        yield from ([] if text.isascii() else [self._scripts(text)])

    @cached_property
    def _dates(self) -> DateFinder:
        return DateFinder(self.days)

    @cached_property
    def _patterns(self) -> list[re.Pattern[str]]:
        return [pattern for number in sorted(self.numbers) if (pattern := _number_pattern(number)) is not None]

    @cached_property
    def _long_numbers(self) -> list[re.Pattern[str]]:
        long = [number for number in sorted(self.numbers) if sum(map(str.isalnum, number)) >= _CODE]
        return [pattern for number in long if (pattern := _number_pattern(number)) is not None]

    @cached_property
    def _long(self) -> re.Pattern[str] | None:
        long = sorted(re.escape(name) for name in self.names if len(name) >= _INSIDE and alphabetic(name))
        return re.compile("|".join(long)) if long else None

    def _glued(self, form: str) -> bool:
        """Return True if a word consists of names and clinical words, and cannot be split without a name."""
        plain = [True] + [False] * len(form)
        named = [False] * (len(form) + 1)
        for at in range(len(form)):
            if not (plain[at] or named[at]):
                continue
            for end in range(at + 2, min(len(form), at + _LONGEST_PART) + 1):
                part = form[at:end]
                if part in _OTHERS:
                    plain[end] |= plain[at]
                    named[end] |= named[at]
                named[end] |= part in self.names
        return named[-1] and not plain[-1]

    @cached_property
    def _ends(self) -> re.Pattern[str]:
        """Pattern of clinical words preceded or followed by a name; the group is the name."""
        names = "|".join(sorted((re.escape(name) for name in self.names if alphabetic(name)), key=len, reverse=True))
        others = "|".join(sorted(_OTHERS, key=len, reverse=True))
        return re.compile(rf"({names})(?:{others})+|(?:{others})+({names})")

    @cached_property
    def _unspaced(self) -> tuple[str, ...]:
        return tuple(name for name in self.names if not alphabetic(name) and len(name) > 1)

    def _words(self, text: str) -> Iterator[tuple[int, int]]:
        for match in _WITH_APOSTROPHE.finditer(text):  # O'Neil, with any apostrophe
            if spellings("".join(words_of(match[0]))) & self.names:
                yield match.span()
        for match in _WORD.finditer(text):
            word, at = match[0], match.start()
            if spellings(word) & self.names:
                yield match.span()
                continue
            splits = _splits(word) if len(word) <= _LONGEST_SPLIT else ()
            found = [span for pieces in splits for span in self._pieces(word, pieces)] or self._inside(word)
            yield from ((at + start, at + end) for start, end in found)

    def _pieces(self, word: str, pieces: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        """Yield pieces of a word, and neighbouring pieces joined, that are names."""
        for first in range(len(pieces)):
            for last in range(first, min(first + 4, len(pieces))):
                start, end = pieces[first][0], pieces[last][1]
                if end - start < 2 or (first, last) == (0, len(pieces) - 1):
                    continue
                if spellings(word[start:end]) & self.names:
                    yield start, end
                elif first == last:
                    yield from ((start + left, start + right) for left, right in self._inside(word[start:end]))

    def _inside(self, word: str) -> list[tuple[int, int]]:
        """Find names within a longer word: return the span of the name where its letters can be located, else that of
        the whole word.
        """
        if word.casefold() in CLINICAL or not any(character.isalpha() for character in word):
            return []
        for form in sorted(spellings(word), key=lambda form: (len(form) != len(word), form)):
            found = self._long.search(form) if self._long is not None else None
            if found is None and len(form) <= _LONGEST_GLUED and self._glued(form):
                found = self._ends.fullmatch(form)
                if found is None:
                    return [(0, len(word))]
            if found:
                span = found.span(found.lastindex or 0)
                return [span] if len(form) == len(word) else [(0, len(word))]
        return []

    def _scripts(self, text: str) -> Iterator[tuple[int, int]]:
        """Find names in scripts without spaces, at any position."""
        for at, character in enumerate(text):  # a one-character family name counts only before an honorific
            title = next((t for t in _HONORIFICS if text.startswith(t, at + 1)), None)
            if title is not None and not alphabetic(character) and character in self.names:
                yield at, at + 1 + len(title)
        if not self._unspaced:
            return
        folded = [min(spellings(character) or {character}) for character in text]
        if any(len(form) != 1 for form in folded):
            folded = [form[:1] for form in folded]
        plain = "".join(folded)
        for name in self._unspaced:
            at = plain.find(name)
            while at >= 0:
                yield at, at + len(name)
                at = plain.find(name, at + 1)


def misread(text: str) -> str | None:
    """Return the intended text where UTF-8 was read as Latin 1; None where that cannot have happened."""
    if text.isascii():
        return None
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return None


def _seam(match: re.Match[str]) -> str:
    """Return the separator to keep between the texts before and after an identifier."""
    before, behind = match[1], match[2]
    if not before and not behind:
        return _CUT
    return (before or behind)[:1] if before.strip() or not behind.strip() else before[:1] or behind[:1]


def _splits(word: str) -> Iterator[list[tuple[int, int]]]:
    """Split a word between letters and digits and at changes of letter case: "LIbone" as LI, bone and as L, Ibone."""
    seen: list[list[tuple[int, int]]] = []
    for capital_begins in (True, False):
        starts = [0, *(at for at in range(1, len(word)) if _boundary(word, at, capital_begins))]
        pieces = list(zip(starts, [*starts[1:], len(word)], strict=True))
        if len(pieces) > 1 and pieces not in seen:
            seen.append(pieces)
            yield pieces


def _boundary(word: str, at: int, capital_begins: bool) -> bool:
    """Return True if a new piece begins at a position.

    In a run of capitals before a small letter, the piece begins at the last capital if ``capital_begins``, else at the
    small letter.
    """
    left, right = word[at - 1], word[at]
    if left.isdigit() != right.isdigit() or (left.islower() and right.isupper()):
        return True
    if capital_begins:
        return left.isupper() and right.isupper() and word[at + 1 : at + 2].islower()
    return left.isupper() and right.islower()


def _number_pattern(number: str) -> re.Pattern[str] | None:
    """Return a pattern for an identifying number with any separators; None for a number too short to be distinctive."""
    characters = [c for c in number if c.isalnum()]
    digits = "".join(c for c in characters if c.isdigit())
    if digits and len(digits) == len(characters):
        plain = digits.lstrip("0")
        if len(plain) < _NUMBER:
            called = rf"(?i)(?<![^\W_])(?:id|mrn|pid|patient|pat)[\W_]*0*{plain}(?!\d)"
            padded = rf"|(?<!\d){digits}(?!\d)" if len(digits) >= _NUMBER else ""
            return re.compile(called + padded) if plain else None
        body = r"[\W_]?".join(plain) if len(plain) >= _CODE else plain
        return re.compile(rf"(?<!\d)0*{body}(?!\d)")
    if len(characters) < _LEAST_OF_CODE:
        return None
    body = r"[\W_]*".join(map(re.escape, characters))
    if len(characters) >= _CODE:
        return re.compile(rf"(?i){body}")
    return re.compile(rf"(?i)(?<![^\W_]){body}(?![^\W_])")
