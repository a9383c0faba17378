"""Configs of the shipped bundles: each id is built as MONAI builds it, and each name in an expression is looked up."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from medvit.bundles.remote.config_allowlist import strings_of
from tests.laws.scratch import scratch

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
STARTS = ("run", "evaluating", "training")
"""Ids that start a run when evaluated; the names in them are looked up instead."""

_REFERENCE = re.compile(r"@[\w#:.]+")


def config_files() -> list[Path]:
    """List each config of each bundle that is a program: all except metadata and data lists."""
    files = sorted(path for path in BUNDLES.glob("*/configs/*") if path.suffix in (".json", ".yaml", ".yml"))
    return [path for path in files if path.stem not in ("metadata", "datalist")]


def parser_for(path: Path, data: Path) -> Any:
    """Read a config as ``medvit`` and the bundles' documents do: those for training and evaluation extend
    inference.json.

    Args:
        path: the config.
        data: a folder to take the place of the bundle's data.
    """
    from monai.bundle import ConfigParser

    below = [] if path.stem.startswith("inference") else [path.with_name("inference.json")]
    parser = ConfigParser()
    parser.read_config([str(part) for part in (*below, path)])
    parser["bundle_root"], parser["dataset_dir"] = str(path.parents[1]), str(data)
    if not has_weights(path):
        parser["network"] = "$@network_def.to(@device).eval()"
    return parser


def has_weights(path: Path) -> bool:
    """Return whether the bundle of a config holds its weights; those of one bundle are not shipped."""
    return any(path.parents[1].glob("models/*"))


def own_ids(path: Path) -> list[str]:
    """List the ids that a config itself holds, in its order."""
    return list(json.loads(path.read_text(encoding="utf-8")))


@cache
def built(path: Path) -> dict[str, str]:
    """Build each id that a config itself holds, except those that start a run; describe each result."""
    import torch

    with scratch() as data, torch.random.fork_rng():
        parser = parser_for(path, data)
        return {name: _kind(parser.get_parsed_content(name)) for name in own_ids(path) if name not in STARTS}


def _kind(built: object, depth: int = 2) -> str:
    """Return the class of a built object with those of its parts, and the size of a network."""
    from torch import nn

    kind = type(built).__name__
    if isinstance(built, nn.Module):
        return f"{kind} of {sum(parameter.numel() for parameter in built.parameters())} parameters"
    if isinstance(built, list | tuple):
        parts = [_kind(part) for part in built if not _is_plain(part)]
        return f"{kind} of {', '.join(parts)}" if parts else kind
    steps = getattr(built, "transforms", None)
    if isinstance(steps, list | tuple):
        return f"{kind} of {', '.join(_kind(step, 0) for step in steps)}"
    if depth and is_dataclass(built):
        values = {field.name: getattr(built, field.name) for field in fields(built)}
        parts = [f"{name}: {_kind(value, depth - 1)}" for name, value in values.items() if not _is_plain(value)]
        return f"{kind} with {'; '.join(parts)}" if parts else kind
    return kind


def _is_plain(value: object) -> bool:
    """Return whether a value holds only numbers and text."""
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    return value is None or isinstance(value, bool | int | float | str) or inspect.ismodule(value)


def targets(path: Path) -> set[str]:
    """Return the ``_target_`` names of a config."""
    return {text for key, text in strings_of(json.loads(path.read_text(encoding="utf-8"))) if key == "_target_"}


def expressions(path: Path) -> set[str]:
    """Return the expressions of a config without their dollar sign."""
    found = {text for _, text in strings_of(json.loads(path.read_text(encoding="utf-8")))}
    return {text.strip()[1:] for text in found if text.lstrip().startswith("$")}


def unresolved(path: Path, data: Path) -> list[str]:
    """List the names in expressions that cannot be looked up: modules, their members, and ids."""
    imported: dict[str, Any] = {}
    for text in expressions(path):
        if text.startswith(("import ", "from ")):
            exec(text, imported)
    known = {**vars(importlib.import_module("builtins")), **imported}
    parser = parser_for(path, data)
    lost = []
    for text in sorted(expressions(path)):
        for reference in _REFERENCE.findall(text):
            if not _is_id(parser, reference):
                lost.append(f"{text}: no id {reference}")
        tree = ast.parse(_REFERENCE.sub("None", text))
        bound = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        for dotted in _dotted(tree):
            root, *rest = dotted.split(".")
            if root not in bound and not _reaches(known, root, rest):
                lost.append(f"{text}: no {dotted}")
        lost += [f"{text}: no {name}" for name in re.findall(r"\bmedvit(?:\.\w+)+", text) if look_up(name) is None]
    return lost


def _is_id(parser: Any, reference: str) -> bool:
    """Return whether a reference names an id by MONAI's rules: attributes may follow the name."""
    name = reference[1:].replace("::", "#").partition(".")[0]
    try:
        parser[name]
    except (KeyError, ValueError, IndexError):
        return False
    return True


def _dotted(tree: ast.AST) -> set[str]:
    """Collect the longest dotted names that are read in an expression."""
    found = set()
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        parts: list[str] = []
        part: ast.AST = node
        while isinstance(part, ast.Attribute):
            parts.append(part.attr)
            part = part.value
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load) and id(node) not in inner:
            found.add(".".join([part.id, *reversed(parts)]))
    return found


def _reaches(known: dict[str, Any], root: str, rest: list[str]) -> bool:
    value = known.get(root, known)
    if value is known:
        return False
    for name in rest:
        if not hasattr(value, name):
            return False
        value = getattr(value, name)
    return True


@cache
def look_up(name: str) -> Any:
    """Return the object of a dotted name, a module or a member of one; None if there is none."""
    parts = name.split(".")
    for number in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:number]))
        except ImportError:
            continue
        for part in parts[number:]:
            value = getattr(value, part, None)
        return value
    return None


def configs() -> dict[str, Any]:
    """Build each config; list the results by bundle, config and id."""
    made: dict[str, dict[str, Any]] = {}
    for path in config_files():
        made.setdefault(path.parents[1].name, {})[path.stem] = built(path)
    return made
