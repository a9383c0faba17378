"""Exit codes of commands: with a mistake, with an unknown option, without arguments, and with ``--help``."""

from __future__ import annotations

from typing import Any

from tests.laws.command_tree import leaves
from tests.laws.mistakes import MISTAKES, lines, places
from tests.laws.scratch import invoke, scratch


def exit_codes() -> dict[str, Any]:
    """List each command's exit codes; a traceback is named in place of a code."""
    found: dict[str, dict[str, Any]] = {}
    with scratch() as folder:
        where = places(folder)
        for command in MISTAKES:
            codes = found.setdefault(command or "medvit", {})
            codes |= {label: _end(line) for label, line in lines(command, where).items()}
    for command, parameters in leaves():
        words = command.split()
        codes = found.setdefault(command, {})
        codes |= {"--help": _end([*words, "--help"]), "unknown option": _end([*words, "--no-such-option"])}
        if any(parameter.required for parameter in parameters.params):
            codes["no arguments"] = _end(words)
    return found


def _end(line: list[str]) -> int | str:
    outcome = invoke(*line)
    if outcome.exception is not None and not isinstance(outcome.exception, SystemExit):
        return f"traceback of {type(outcome.exception).__name__}"
    return int(outcome.exit_code)
