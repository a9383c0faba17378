"""Language of ``--select`` and of rules: comparisons of DICOM attributes, joined by and, or, not.

    either     = both { "or" both }
    both       = negated { "and" negated }
    negated    = "not" negated | "(" either ")" | comparison
    comparison = NAME [ ("==" | "!=" | "~" | "<" | "<=" | ">" | ">=") value | ["not"] "in" "(" value { "," value } ")" ]
    value      = NUMBER | "text" | 'text' | WORD

A selection is never evaluated as Python. It is split into tokens, which become a tree of the five classes below; each
node gets the values of an attribute from a function.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, TypeAlias

from medvit_batch.errors import ExpressionError

__all__ = ["Expression", "Lookup", "parse"]

Lookup: TypeAlias = Callable[[str], Sequence[str]]
"""Function that returns the values of an attribute as text; none if the attribute is absent or empty."""

_TOKEN = re.compile(
    r"""\s*(?:(?P<text>"[^"]*"|'[^']*')|(?P<sign>==|!=|<=|>=|[~<>(),])|(?P<word>[^\s"'=!<>~(),]+)|(?P<odd>.))""",
    re.DOTALL,
)
_ORDERS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_SIGNS = ("==", "!=", "~", *_ORDERS)
_WORDS = ("and", "or", "not", "in")
_DEEPEST = 50
"""Upper limit of nested parentheses and nots."""


class _Node(Protocol):
    def true(self, values: Lookup) -> bool: ...


@dataclass(frozen=True)
class Expression:
    """A parsed selection, which can be applied to many series.

    Attributes:
        text: text of the selection.
        names: attributes that it uses, as written in DICOM's dictionary or ``attributes.py``.
    """

    text: str
    names: frozenset[str]
    tree: _Node

    def true(self, values: Lookup) -> bool:
        """Return True if the selection holds for a series with these attributes."""
        return self.tree.true(values)


@dataclass(frozen=True)
class _Compare:
    name: str
    sign: str
    value: str

    def true(self, values: Lookup) -> bool:
        found = values(self.name)
        if self.sign == "==":
            return any(_equal(v, self.value) for v in found)
        if self.sign == "!=":
            return not any(_equal(v, self.value) for v in found)
        if self.sign == "~":
            return self.value.casefold() in "\\".join(found).casefold()
        limit, compare = float(self.value), _ORDERS[self.sign]
        return any(compare(number, limit) for v in found if (number := _number(v)) is not None)


@dataclass(frozen=True)
class _In:
    name: str
    choices: tuple[str, ...]

    def true(self, values: Lookup) -> bool:
        return any(_equal(v, choice) for v in values(self.name) for choice in self.choices)


@dataclass(frozen=True)
class _Present:
    name: str

    def true(self, values: Lookup) -> bool:
        return any(values(self.name))


@dataclass(frozen=True)
class _Not:
    part: _Node

    def true(self, values: Lookup) -> bool:
        return not self.part.true(values)


@dataclass(frozen=True)
class _Joined:
    parts: tuple[_Node, ...]
    all: bool

    def true(self, values: Lookup) -> bool:
        return (all if self.all else any)(part.true(values) for part in self.parts)


@lru_cache(maxsize=4096)
def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _equal(found: str, wanted: str) -> bool:
    """Compare as numbers if both are numbers, else as text without regard to case."""
    a, b = _number(found), _number(wanted)
    return a == b if a is not None and b is not None else found.strip().casefold() == wanted.strip().casefold()


@dataclass(frozen=True)
class _Token:
    kind: str  # "text", "sign", "word", "odd" or "end"
    value: str
    at: int

    def says(self, *wanted: str) -> bool:
        return self.kind in ("sign", "word") and self.value.casefold() in wanted


class _Reader:
    """Recursive descent parser from tokens to a tree."""

    def __init__(self, text: str, known: Callable[[str], str]) -> None:
        self.text, self.known = text, known
        self.names: set[str] = set()
        self.depth = 0
        self.tokens = self._cut()
        self.next = 0

    def _cut(self) -> list[_Token]:
        tokens, at = [], 0
        while self.text[at:].strip():
            match = _TOKEN.match(self.text, at)
            assert match is not None and match.lastgroup is not None
            tokens.append(_Token(match.lastgroup, match[match.lastgroup], match.start(match.lastgroup)))
            at = match.end()
        return [*tokens, _Token("end", "the end", len(self.text.rstrip()))]

    def refuse(self, token: _Token, needed: str, step: str = "See docs/batch.md.") -> ExpressionError:
        shown = self.text.replace("\n", " ").replace("\t", " ")
        found = "the end" if token.kind == "end" else repr(token.value)
        step = "Close the quotation mark." if token.value in ("'", '"') else step
        return ExpressionError(
            f"{found} at character {token.at + 1} of the selection",
            f"{needed} is needed",
            f"{step}\n  {shown}\n  {' ' * token.at}^",
        )

    def peek(self) -> _Token:
        return self.tokens[self.next]

    def take(self) -> _Token:
        self.next += 1
        return self.tokens[self.next - 1]

    def either(self) -> _Node:
        parts = [self.both()]
        while self.peek().says("or"):
            self.take()
            parts.append(self.both())
        return parts[0] if len(parts) == 1 else _Joined(tuple(parts), all=False)

    def both(self) -> _Node:
        parts = [self.negated()]
        while self.peek().says("and"):
            self.take()
            parts.append(self.negated())
        return parts[0] if len(parts) == 1 else _Joined(tuple(parts), all=True)

    def negated(self) -> _Node:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise self.refuse(self.peek(), f"a selection at most {_DEEPEST} levels deep", "Use fewer parentheses.")
        made: _Node
        if self.peek().says("not"):
            self.take()
            made = _Not(self.negated())
        elif self.peek().says("("):
            self.take()
            made = self.either()
            if not self.peek().says(")"):
                raise self.refuse(self.peek(), "a closing parenthesis, and, or or")
            self.take()
        else:
            made = self.comparison()
        self.depth -= 1
        return made

    def comparison(self) -> _Node:
        name = self.name()
        if self.peek().says(*_SIGNS):
            return self.compared(name, self.take().value)
        if self.peek().says("not"):
            self.take()
            if not self.peek().says("in"):
                raise self.refuse(self.peek(), "in, as in: Modality not in (CT, MR)")
            return _Not(self.listed(name))
        return self.listed(name) if self.peek().says("in") else _Present(name)

    def name(self) -> str:
        token = self.take()
        if token.kind != "word" or token.says(*_WORDS):
            raise self.refuse(token, "the name of an attribute, as Modality")
        try:
            name = self.known(token.value)
        except LookupError as error:
            raise self.refuse(token, "an attribute of DICOM's dictionary or of docs/batch.md", str(error)) from None
        self.names.add(name)
        return name

    def compared(self, name: str, sign: str) -> _Node:
        token = self.peek()
        value = self.value()
        if sign in _ORDERS and _number(value) is None:
            raise self.refuse(token, f"a number behind {sign}", "Compare words with == or ~.")
        return _Compare(name, sign, value)

    def listed(self, name: str) -> _Node:
        self.take()
        if not self.peek().says("("):
            raise self.refuse(self.peek(), "a list in parentheses, as in: Modality in (CT, MR)")
        choices: list[str] = []
        while not choices or self.peek().says(","):
            self.take()
            choices.append(self.value())
        if not self.peek().says(")"):
            raise self.refuse(self.peek(), "a comma or a closing parenthesis")
        self.take()
        return _In(name, tuple(choices))

    def value(self) -> str:
        token = self.take()
        if token.kind == "text":
            return token.value[1:-1]
        if token.kind != "word" or token.says(*_WORDS):
            raise self.refuse(token, "a word, a number or a text in quotation marks")
        return token.value


def parse(text: str, known: Callable[[str], str]) -> Expression:
    """Parse a selection.

    Args:
        text: text of the selection.
        known: function from an attribute's name to its proper name; raises a LookupError whose message is shown.

    Raises:
        ExpressionError: a syntax error; the message marks the position.
    """
    reader = _Reader(text, known)
    if reader.peek().kind == "end":
        raise ExpressionError(
            "an empty selection", "a comparison is needed, as in: Modality == CT", "Leave it out to take all."
        )
    tree = reader.either()
    if reader.peek().kind != "end":
        raise reader.refuse(reader.peek(), "and, or, or the end")
    return Expression(text, frozenset(reader.names), tree)
