"""Tree of commands with each argument, option, type and default, as Typer's own objects state it."""

from __future__ import annotations

from collections.abc import Iterator
from enum import EnumType
from pathlib import PurePath
from typing import Any, get_args


def leaves() -> Iterator[tuple[str, Any]]:
    """Walk the commands of ``medvit``, including those of the apps; yield each runnable command with its words."""
    import typer

    from medvit.cli.main import app

    yield from _below(typer.main.get_command(app), "")


def _below(command: Any, words: str) -> Iterator[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        yield words, command
        return
    for name, part in command.commands.items():
        yield from _below(part, f"{words} {name}".strip())


def commands() -> dict[str, Any]:
    """Describe each command: names of each parameter, with its type, whether it is required, and its default."""
    return {
        words + (" (hidden)" if command.hidden else ""): {_names(p): _described(p) for p in command.params}
        for words, command in leaves()
    }


def _names(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"<{parameter.name}>"
    return ", ".join([*parameter.opts, *parameter.secondary_opts])


def _described(parameter: Any) -> str:
    kind = parameter.type_descriptor.annotation  # Typer 0.29; earlier ones keep a click type in its place
    choices = [str(member.value) for member in kind] if isinstance(kind, EnumType) else []
    parts = [
        "flag"
        if getattr(parameter, "is_flag", False)
        else "|".join(choices) or (str(kind) if get_args(kind) else kind.__name__)
    ]
    parts += [f"{word} {value}" for word in ("min", "max") if (value := getattr(parameter, word)) is not None]
    if parameter.nargs != 1:
        parts.append(f"{parameter.nargs} values")
    if getattr(parameter, "multiple", False):
        parts.append("repeatable")
    if parameter.hidden:
        parts.append("hidden")
    if parameter.envvar:
        parts.append(f"environment {parameter.envvar}")
    default = getattr(parameter.default, "value", parameter.default)
    default = default.as_posix() if isinstance(default, PurePath) else default
    parts.append("required" if parameter.required else f"default {default!r}")
    return ", ".join(parts)
