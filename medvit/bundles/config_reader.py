"""Reader of configs that use only medvit's classes and a few forms of expressions. It loads nothing of MONAI's and never
evaluates code; other configs need MONAI's ``ConfigParser``.

A config is a mapping from ids to values, as for MONAI: ``{"_target_": ...}`` is a call of a class, ``"@id"`` refers to
another value, and a string with ``$`` in front is an expression. Expressions may contain references, numbers, strings,
lists, ``+``, an index such as ``@range[0]``, and ``.to(...)`` of a reference.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from medvit.bundles.remote.config_allowlist import MEDVIT_NAMES

__all__ = ["ConfigReader"]

_REFERENCE = re.compile(r"@(\w+)")

_OTHER_IDS = re.compile(r"::|#|@(?!\w)")
"""Nested ids and relative ids, which only MONAI's parser resolves."""

_MARK = "reference_"
"""Prefix of the Python name that replaces a reference while an expression is parsed."""

_IGNORED = {"_target_", "_desc_"}
"""Keys of a call that are not arguments."""

_PARSER_ONLY = {"_disabled_", "_requires_", "_mode_"}
"""Keys of a call that only MONAI's parser understands."""


class ConfigReader:
    """Reader of one config. Each value is made once and shared by all references to it.

    Args:
        config: the config, as JSON gives it.

    Examples:
        >>> from medvit.bundles import ConfigReader
        >>> reader = ConfigReader({"range": [0, 80], "most": "$@range[1]", "code": "$print(1)"})
        >>> reader.knows("most"), reader.get("most"), reader.knows("code")
        (True, 80, False)
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config
        self._made: dict[str, Any] = {}

    def knows(self, *names: str) -> bool:
        """Return True if the values of these ids, and all that they refer to, are of the forms that the reader knows.

        Args:
            names: ids.
        """
        if any(_OTHER_IDS.search(key) or key.startswith("+") for key in self._config):
            return False
        return all(self._knows_id(name, ()) for name in names)

    def get(self, name: str) -> Any:
        """Make the value of an id that ``knows`` accepts.

        Args:
            name: the id.

        Raises:
            RuntimeError: a class cannot be called with its arguments; the cause is the error of the class.
        """
        if name not in self._made:
            self._made[name] = self._make(self._config[name])
        return self._made[name]

    def _knows_id(self, name: str, above: tuple[str, ...]) -> bool:
        """Check the value of an id; ``above`` holds the ids that lead to it, among which it must not be."""
        return name in self._config and name not in above and self._knows(self._config[name], (*above, name))

    def _knows(self, node: Any, above: tuple[str, ...]) -> bool:
        if isinstance(node, Mapping):
            target = node.get("_target_", "")
            known = target == "" or (
                isinstance(target, str) and target in MEDVIT_NAMES and not node.keys() & _PARSER_ONLY
            )
            values = [value for key, value in node.items() if key not in _IGNORED]
            return known and all(self._knows(value, above) for value in values)
        if isinstance(node, list):
            return all(self._knows(value, above) for value in node)
        if not isinstance(node, str):
            return True
        if node.startswith("$"):
            tree = _parsed(node)
            return tree is not None and all(self._knows_id(name, above) for name in _references(tree))
        if node.startswith("@"):
            return _REFERENCE.fullmatch(node) is not None and self._knows_id(node[1:], above)
        return not node.startswith("%") and not re.search(r"@(::|#)", node)

    def _make(self, node: Any) -> Any:
        if isinstance(node, Mapping):
            made = {key: self._make(value) for key, value in node.items() if key not in _IGNORED}
            return _called(node["_target_"], made) if "_target_" in node else made
        if isinstance(node, list):
            return [self._make(value) for value in node]
        if not isinstance(node, str):
            return node
        if node.startswith("$"):
            tree = _parsed(node)
            assert tree is not None  # ``knows`` was asked before
            return self._evaluated(tree)
        return self.get(node[1:]) if node.startswith("@") else node

    def _evaluated(self, node: ast.expr) -> Any:
        match node:
            case ast.Name():
                return self.get(node.id.removeprefix(_MARK))
            case ast.Constant():
                return node.value
            case ast.List():
                return [self._evaluated(item) for item in node.elts]
            case ast.BinOp():
                return self._evaluated(node.left) + self._evaluated(node.right)
            case ast.Subscript():
                return self._evaluated(node.value)[self._evaluated(node.slice)]
            case ast.Call(func=ast.Attribute(value=owner)):
                return self._evaluated(owner).to(self._evaluated(node.args[0]))
        raise AssertionError(f"{ast.dump(node)} was not refused by _is_known")


def _called(target: str, arguments: dict[str, Any]) -> Any:
    module, _, name = target.rpartition(".")
    try:
        return getattr(import_module(module), name)(**arguments)
    except Exception as error:
        raise RuntimeError(f"{target} cannot be made: {error}") from error


def _parsed(text: str) -> ast.expr | None:
    """Parse an expression, with references as names; return None if it is not of a known form."""
    if _OTHER_IDS.search(text) or _MARK in text:
        return None
    try:
        tree = ast.parse(_REFERENCE.sub(rf"{_MARK}\1", text[1:]), mode="eval").body
    except (SyntaxError, ValueError):
        return None
    return tree if _is_known(tree) else None


def _is_known(node: ast.expr) -> bool:
    match node:
        case ast.Name():
            return node.id.startswith(_MARK)
        case ast.Constant(value=value):
            return isinstance(value, int | float) or (isinstance(value, str) and _MARK not in value)
        case ast.List():
            return all(map(_is_known, node.elts))
        case ast.BinOp(op=ast.Add()):
            return _is_known(node.left) and _is_known(node.right)
        case ast.Subscript(value=ast.Name(), slice=ast.Constant(value=int())):
            return _is_known(node.value)
        case ast.Call(func=ast.Attribute(value=ast.Name() as owner, attr="to"), args=[argument], keywords=[]):
            return _is_known(owner) and _is_known(argument)
    return False


def _references(tree: ast.expr) -> list[str]:
    """List the ids that a parsed expression refers to."""
    names = [node.id for node in ast.walk(tree) if isinstance(node, ast.Name)]
    return [name.removeprefix(_MARK) for name in names]
