"""Lines of JSON for programs that watch a batch: in ``log.jsonl`` always, on the terminal if asked. No patient data, no paths."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import typer

from medvit.cli.common import Terminal

__all__ = ["LOG", "Events", "Format", "JsonLines", "speaking"]

LOG = "log.jsonl"


class Format(StrEnum):
    """How a command that runs for long speaks."""

    TEXT = "text"
    JSON = "json"


def _line(what: str, **content: Any) -> str:
    return json.dumps(
        {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": what, **content}, default=str
    )


@dataclass(frozen=True)
class JsonLines(Terminal):
    """Speaks in lines of JSON on standard output, as collectors of logs take them; errors too."""

    def say(self, text: str) -> None:
        """What a person would read, as the text of a line."""
        if not self.quiet:
            typer.echo(_line("said", text=text))

    def complain(self, text: str, kind: str) -> None:
        """Why the command ends."""
        typer.echo(_line("error", kind=kind, text=text.removeprefix("Error: ")))


def speaking(form: Format, quiet: bool, json: bool, debug: bool) -> Terminal:
    """What a command says things with."""
    return (JsonLines if form is Format.JSON else Terminal)(quiet=quiet, json=json, debug=debug)


class Events:
    """Appends to the log of a batch; a line is whole or not there, and none is waited for.

    Args:
        out: the batch.
        shown: lines are printed too where it speaks in such lines.
    """

    def __init__(self, out: Path, shown: Terminal) -> None:
        self.path = out / LOG
        self.printed = isinstance(shown, JsonLines)
        self._quiet = shown.quiet

    def write(self, what: str, **content: Any) -> None:
        """Add a line."""
        line = _line(what, **content)
        if self.printed and not self._quiet:
            typer.echo(line)
        with (
            contextlib.suppress(OSError),
            self.path.open("a", encoding="utf-8") as file,
        ):  # a full disk stops the run elsewhere
            file.write(line + "\n")
