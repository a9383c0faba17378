"""Names in README, documents and cards: each ``medvit`` command exists with its options, each Python name, each file of a kernel."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from importlib import import_module
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
    *sorted((ROOT / "medvit" / "kernels").glob("*/README.md")),
]
FIELDS = {"medvit.acceptable", "medvit.validation", "medvit.quality", "medvit.weights.origin", "medvit.commands"}
"""Fields of a bundle's metadata, and the entry-point group: they look like Python names."""
SHELLS = {"bash", "sh", "console", ""}
"""Languages of fenced blocks that hold commands."""
_FENCE = re.compile(r"^[ \t]*```(\w*)[^\n]*\n(.*?)^[ \t]*```[ \t]*$", re.MULTILINE | re.DOTALL)
_NAME = re.compile(r"`(medvit(?:_[a-z]+)?(?:\.\w+)+)`")
_KERNEL_FILE = re.compile(r"`(\w+\.py)`")
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


def _python_names(text: str) -> Iterator[str]:
    yield from (name for name in _NAME.findall(text) if name not in FIELDS)


@pytest.mark.parametrize("name", _documented(_python_names))
def test_a_python_name_in_a_document_exists(name: str) -> None:
    words = name.split(".")
    found: Any = import_module(words[0])
    for number, word in enumerate(words[1:], 2):
        try:
            found = getattr(found, word)
        except AttributeError:
            found = import_module(".".join(words[:number]))


@pytest.mark.parametrize(
    "readme", sorted((ROOT / "medvit" / "kernels").glob("*/README.md")), ids=lambda p: p.parent.name
)
def test_a_kernels_readme_names_the_files_of_its_folder(readme: Path) -> None:
    files = {path.name for path in readme.parent.glob("*.py")} - {"__init__.py"}
    named = set(_KERNEL_FILE.findall(readme.read_text(encoding="utf-8"))) - {"__init__.py"}
    assert named <= files
    assert {name for name in files - named if not name.startswith("triton_")} == set()


def test_every_document_that_names_a_command_is_searched() -> None:
    lines = [line for path in DOCUMENTS for line in _blocks(path.read_text(encoding="utf-8"))]
    assert {path.name for path in DOCUMENTS} >= {"README.md", "batch.md", "label.md"}
    assert len(lines) > 40
