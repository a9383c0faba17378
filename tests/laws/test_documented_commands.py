"""Commands in README, documents and cards: each ``medvit`` command exists, with the options that a reader is told to type."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from medvit.cli.main import app

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "bundles").glob("*/docs/README.md")),
]
SHELLS = {"bash", "sh", "console", ""}
"""Languages of fenced blocks that hold commands."""
_FENCE = re.compile(r"^[ \t]*```(\w*)[^\n]*\n(.*?)^[ \t]*```[ \t]*$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`(medvit [a-z][^`]*)`")


@cache
def _root() -> Any:
    return typer.main.get_command(app)


def _blocks(text: str) -> Iterator[str]:
    """Yield each command line of the fenced blocks, continued lines joined."""
    for language, block in _FENCE.findall(text):
        if language in SHELLS:
            for line in re.sub(r"\\\n\s*", " ", block).splitlines():
                if line.strip().startswith("medvit "):
                    yield line.strip()


def _spans(text: str) -> Iterator[str]:
    """Yield each command named in running text."""
    yield from (" ".join(span.split()) for span in _SPAN.findall(_FENCE.sub("", text)))


def _words(line: str) -> list[str]:
    """Split a command line as a shell does, without its comment and whatever follows the command."""
    words: list[str] = []
    for word in shlex.split(line, comments=True):
        if word in {"|", "||", "&&", ";", ">"}:
            break
        words.append(word)
    return words[1:]


def _command(words: list[str]) -> tuple[Any, list[str]]:
    """Walk down to the command that the words name; return it with the words left."""
    command, left = _root(), list(words)
    while hasattr(command, "commands") and left and left[0] in command.commands:
        command = command.commands[left.pop(0)]
    return command, left


def _documented(lines: Any) -> list[Any]:
    return [
        pytest.param(line, id=f"{path.relative_to(ROOT)}: {line}"[:150])
        for path in DOCUMENTS
        for line in dict.fromkeys(lines(path.read_text(encoding="utf-8")))
    ]


@pytest.mark.parametrize("line", _documented(_blocks))
def test_a_command_to_copy_is_taken_by_the_command_line(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("MEDVIT_MEMORY_LIMIT", "MEDVIT_DICOMWEB_USER"):
        monkeypatch.delenv(variable, raising=False)
    words = _words(line)
    if words == ["--help"]:
        return
    command, left = _command(words)
    assert not hasattr(command, "commands") or left == ["--help"], f"no command is named {' '.join(words[:2])}"
    if "--help" not in left:
        with command.make_context(command.name, left):
            pass  # a usage error is raised by the line before


@pytest.mark.parametrize("span", _documented(_spans))
def test_a_command_in_running_text_exists_with_its_options(span: str) -> None:
    words = shlex.split(span)[1:]
    command, left = _command(words)
    rest = [word for word in left if not word.startswith("-")]
    if hasattr(command, "commands"):
        assert command is not _root() and not rest, f"no command is named {span}"
    known = {name for p in command.params for name in (*p.opts, *p.secondary_opts)} | {"-h", "--help"}
    given = {word.partition("=")[0] for word in left if word.startswith("-")}
    assert given <= known, f"{span}: no such option: {', '.join(sorted(given - known))}"


def test_every_document_that_names_a_command_is_searched() -> None:
    lines = [line for path in DOCUMENTS for line in _blocks(path.read_text(encoding="utf-8"))]
    assert {path.name for path in DOCUMENTS} >= {"README.md", "batch.md", "label.md"}
    assert len(lines) > 40
