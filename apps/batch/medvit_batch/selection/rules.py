"""Rules that assign series to bundles. A file of rules is validated as a whole before any image is read.

    [[rules]]
    name = "head and neck"
    when = 'Modality == CT and BodyPart ~ HEAD and Slices >= 30'
    bundle = "headneck_ct_swin_unetr"

    [[rules]]
    when = 'Description ~ scout'
    skip = "overview images"

The first rule that holds for a series decides; a series without such a rule is skipped.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from medvit_batch.errors import ExpressionError, RulesError
from medvit_batch.selection.attributes import proper_name
from medvit_batch.selection.expressions import Expression, Lookup, parse

__all__ = ["Choice", "Rule", "Rules", "one_bundle", "read_rules"]

_KINDS = (".toml", ".yaml", ".yml")


@dataclass(frozen=True)
class Rule:
    """A rule that assigns series to bundles, or skips them.

    Attributes:
        name: name of the rule in decisions.
        when: condition on a series; None for all.
        bundles: bundles to run; empty if the series is skipped.
        skip: reason for skipping.
    """

    name: str
    when: Expression | None
    bundles: tuple[str, ...]
    skip: str = ""


@dataclass(frozen=True)
class Choice:
    """Choice of the rules for a series: the bundles, and the reason in words."""

    bundles: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Rules:
    """A selection, and the rules for the series that it selects."""

    rules: tuple[Rule, ...]
    select: Expression | None = None

    @property
    def bundles(self) -> tuple[str, ...]:
        """Bundles that the rules name."""
        return tuple(dict.fromkeys(bundle for rule in self.rules for bundle in rule.bundles))

    def choose(self, values: Lookup) -> Choice:
        """Return the choice for a series with these attributes."""
        if self.select is not None and not self.select.true(values):
            return Choice((), f"not selected by: {self.select.text}")
        for rule in self.rules:
            if rule.when is None or rule.when.true(values):
                return Choice(rule.bundles, f"{rule.name}: {rule.skip}" if rule.skip else rule.name)
        return Choice((), "no rule holds for it")


class _Rule(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    name: str = ""
    when: str | None = None
    bundle: str | None = None
    bundles: list[str] | None = None
    skip: str = ""

    @model_validator(mode="after")
    def _one_of_them(self) -> _Rule:
        if sum(bool(v) for v in (self.bundle, self.bundles, self.skip)) != 1:
            raise ValueError("exactly one of bundle, bundles and skip is needed")
        return self


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    select: str | None = None
    rules: list[_Rule]


def one_bundle(bundle: str, select: str | None) -> Rules:
    """Return the rules of a run with one bundle for all selected series.

    Raises:
        ExpressionError: the selection has a syntax error.
    """
    chosen = parse(select, proper_name) if select is not None else None
    return Rules((Rule(f"bundle {Path(bundle).name}", None, (bundle,)),), chosen)


def read_rules(path: Path, select: str | None) -> Rules:
    """Read a TOML or YAML file of rules; a series must pass ``select`` and the file's own selection.

    Raises:
        RulesError: the file cannot be read, or has a mistake; the message names the rule.
        ExpressionError: ``select`` has a syntax error.
    """
    try:
        content = _File.model_validate(_content(path))
    except ValidationError as error:
        first = error.errors()[0]
        place = [f"rule {p + 1}" if isinstance(p, int) else str(p) for p in first["loc"] if p != "rules"]
        raise RulesError(
            f"a mistake in {path.name}, {', '.join(place) or 'at the top'}: {first['msg']}",
            remedy="Correct it; see docs/batch.md.",
        ) from None
    if not content.rules:
        raise RulesError(f"no rule in {path.name}", "at least one is needed", "See docs/batch.md.")
    rules = tuple(_rule(rule, number, path) for number, rule in enumerate(content.rules, 1))
    given = [text for text in (content.select, select) if text is not None]
    joined = " and ".join(f"({text})" for text in given) if len(given) > 1 else "".join(given)
    for text in given:
        parse(text, proper_name)  # each alone first, so that a position in a message refers to the user's text
    return Rules(rules, parse(joined, proper_name) if given else None)


def _rule(rule: _Rule, number: int, path: Path) -> Rule:
    name = rule.name or f"rule {number}"
    try:
        when = parse(rule.when, proper_name) if rule.when is not None else None
    except ExpressionError as error:
        raise RulesError(f"a mistake in {path.name}, {name}: {error.found}", error.needed, error.remedy) from None
    bundles = tuple(rule.bundles) if rule.bundles else (rule.bundle,) if rule.bundle else ()
    return Rule(name, when, bundles, rule.skip)


def _content(path: Path) -> Any:
    if path.suffix.lower() not in _KINDS:
        raise RulesError(path.name, "rules are a .toml or .yaml file", "Rename or rewrite it.")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise RulesError(
            f"no readable rules at {path.name} ({why})", "a text file is needed", "Check the path."
        ) from error
    try:
        if path.suffix.lower() == ".toml":
            return tomllib.loads(text)
        import yaml

        return yaml.safe_load(text)
    except Exception as error:
        first = " ".join(str(error).split())[:200]
        raise RulesError(
            f"{path.name}, which is not {path.suffix[1:].upper()} ({first})", remedy="Correct it."
        ) from error
