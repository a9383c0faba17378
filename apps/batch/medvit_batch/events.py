"""Events of a batch as lines of JSON: always in ``log.jsonl``, on the terminal if asked. They hold no patient data and
no paths.
"""

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
    """Output format of a command that runs for long."""

    TEXT = "text"
    JSON = "json"


def _line(what: str, **content: Any) -> str:
    return json.dumps(
        {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": what, **content}, default=str
    )


@dataclass(frozen=True)
class JsonLines(Terminal):
    """Terminal that prints lines of JSON on standard output, errors too, as log collectors expect."""

    def say(self, text: str) -> None:
        """Print a sentence for people as a line of JSON."""
        if not self.quiet:
            typer.echo(_line("said", text=text))

    def complain(self, text: str, kind: str) -> None:
        """Print the error that ends the command."""
        typer.echo(_line("error", kind=kind, text=text))


def speaking(form: Format, quiet: bool, json: bool, debug: bool) -> Terminal:
    """Return the terminal that a command prints with."""
    return (JsonLines if form is Format.JSON else Terminal)(quiet=quiet, json=json, debug=debug)


class Events:
    """Writer of a batch's log; each line is written whole, and none is flushed to disk at once.

    Args:
        out: folder of the batch.
        shown: terminal; if it prints lines of JSON, events are printed too.
    """

    def __init__(self, out: Path, shown: Terminal) -> None:
        self.path = out / LOG
        self.printed = isinstance(shown, JsonLines)
        self._quiet = shown.quiet

    def write(self, what: str, **content: Any) -> None:
        """Append a line to the log."""
        line = _line(what, **content)
        if self.printed and not self._quiet:
            typer.echo(line)
        with (
            contextlib.suppress(OSError),
            self.path.open("a", encoding="utf-8") as file,
        ):  # a full disk stops the run elsewhere
            file.write(line + "\n")
