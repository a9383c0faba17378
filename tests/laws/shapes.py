"""Shape of JSON: nested keys with the types of their values, independent of the values."""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

_NUMBERED = re.compile(r"\d+|.*[./].*")
"""Keys that are numbers or names of files, in which digits are ignored."""

OPEN = ("scores", "eval_metrics", "dice")
"""Keys whose inner names come from a bundle's measurements; these names count as one."""

_TYPES = {str: "text", bool: "true or false", int: "whole number", float: "number", type(None): "null"}


def shape(value: Any, open_keys: tuple[str, ...] = OPEN) -> Any:
    """Describe a JSON value: an object by the shapes under its keys, an array by that of its items, others by their
    type.
    """
    if isinstance(value, dict):
        found: dict[str, Any] = {}
        for key, content in value.items():
            name = re.sub(r"\d+", "#", key) if _NUMBERED.fullmatch(key) else key
            is_open = key in open_keys and isinstance(content, dict)
            inner = {"*": shape(list(content.values()))[0]} if is_open else shape(content, open_keys)
            found[name] = merge(found[name], inner) if name in found else inner
        return found
    if isinstance(value, list | tuple):
        items: Any = "nothing"
        for content in value:
            items = merge(items, shape(content, open_keys))
        return [items]
    return _TYPES[type(value)]


def merge(one: Any, other: Any) -> Any:
    """Describe a value of either shape; keys that only one of them has get a question mark."""
    if one == other or other == "nothing":
        return one
    if one == "nothing":
        return other
    if isinstance(one, dict) and isinstance(other, dict):
        return _merge_objects(one, other)
    if isinstance(one, list) and isinstance(other, list):
        return [merge(one[0], other[0])]
    words = {word for part in (one, other) for word in _as_text(part).split(" | ")}
    return " | ".join(sorted(words))


def _merge_objects(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    plain = [{key.removesuffix("?"): value for key, value in part.items()} for part in (one, other)]
    found = {}
    for key in plain[0] | plain[1]:
        both = all(key in part for part in plain) and f"{key}?" not in one and f"{key}?" not in other
        values = [part[key] for part in plain if key in part]
        found[key if both else f"{key}?"] = merge(values[0], values[-1])
    return found


def _as_text(part: Any) -> str:
    return part if isinstance(part, str) else json.dumps(part, sort_keys=True)


def file_shape(path: Path, open_keys: tuple[str, ...] = OPEN) -> Any:
    """Describe the JSON in a file."""
    return shape(json.loads(path.read_text(encoding="utf-8")), open_keys)


def lines_by_kind(text: str, key: str, open_keys: tuple[str, ...] = OPEN) -> dict[str, Any]:
    """Describe lines of JSON, grouped by the value of a key."""
    found: dict[str, Any] = {}
    for line in filter(None, text.splitlines()):
        content = json.loads(line)
        found[content[key]] = merge(found.get(content[key], "nothing"), shape(content, open_keys))
    return found


def columns(path: Path) -> list[str]:
    """Return the names of a table's columns."""
    return path.read_text(encoding="utf-8").splitlines()[0].split(",")


def schema(path: Path) -> dict[str, Any]:
    """Return the schema of a SQLite file: its version, and the parts of each table and index."""
    with closing(sqlite3.connect(path)) as base:
        (version,) = base.execute("PRAGMA user_version").fetchone()
        rows = base.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    return {"version": version, **{name: statement_parts(sql) for name, sql in rows}}


def statement_parts(sql: str) -> list[str]:
    """Split an SQL statement into the text before its first bracket and the comma-separated parts inside it."""
    words = " ".join(sql.split())
    head, bracket, rest = words.partition("(")
    if not bracket or not rest.endswith(")"):
        return [words]
    return [head.strip(), *(part.strip() for part in re.split(r",(?![^(]*\))", rest[:-1]))]
