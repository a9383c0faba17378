"""MkDocs hook of ``make docs``: pages generated from the code and from the bundles, and links between them.

- Reference of commands: one page for each command, from Typer's own objects.
- Python API: one page for each room, from the names of its face; mkdocstrings fills in signatures and docstrings.
- Models: one page for each bundle, its card, under a table from the metadata.
- Operators: one page for each folder of ``medvit/kernels``, its README.
- README, CONTRIBUTING, SECURITY and CHANGELOG of the repository.

Pages keep links that work in the repository. The hook rewrites a link to the page of the site that shows the same file, and
turns a link to any other file of the repository into plain text. A link to a file that does not exist fails the build.
"""

from __future__ import annotations

import ast
import json
import posixpath
import re
from collections.abc import Iterator
from enum import EnumType
from pathlib import Path
from typing import Any, get_args

from house import face
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = "reference/commands"
PYTHON = "reference/python"
MODELS = "models"
OPERATORS = "operators"
ROOT_PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
}
"""Documents in the repository's root, with their pages on the site."""
KERNELS = "medvit.kernels"
"""The one room whose face is not lazy."""
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
_FENCE = re.compile(r"(^[ \t]*```.*?^[ \t]*```[ \t]*$)", re.MULTILINE | re.DOTALL)
_repository_path: dict[str, str] = {}
"""Path in the repository of each page's source, by its path on the site."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages and the pages that lie outside of ``docs/``."""
    _repository_path.clear()
    for file in list(files):
        if (ROOT / "docs" / file.src_uri).is_file():
            _repository_path[file.src_uri] = f"docs/{file.src_uri}"
    for source, uri in ROOT_PAGES.items():
        _copy(files, config, source, uri)
    for folder in bundle_folders():
        for path in sorted((folder / "docs").iterdir()):
            if path.suffix in {".md", ".png"}:
                uri = f"{MODELS}/{folder.name}/{'index.md' if path.name == 'README.md' else path.name}"
                _copy(files, config, path.relative_to(ROOT).as_posix(), uri)
    for path in sorted((ROOT / "medvit/kernels").glob("*/README.md")):
        _copy(files, config, path.relative_to(ROOT).as_posix(), f"{OPERATORS}/{path.parent.name}.md")
    for uri, text in generated_pages():
        files.append(File.generated(config, uri, content=text))
    config.nav = _filled(config.nav or [], [file.src_uri for file in files.documentation_pages()])
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite links between files of the repository into links between pages of the site."""
    source = _repository_path.get(page.file.src_uri)
    if source is None:
        return markdown
    parts = _FENCE.split(markdown)
    return "".join(
        part if number % 2 else _LINK.sub(lambda found: _link(found, source, page.file.src_uri), part)
        for number, part in enumerate(parts)
    )


def _filled(entries: list[Any], uris: list[str]) -> list[Any]:
    """Replace each entry ``FOLDER/*`` of the navigation by the pages of that folder, its index first."""
    filled: list[Any] = []
    for entry in entries:
        if isinstance(entry, dict):
            filled += [{k: _filled(v, uris) if isinstance(v, list) else v for k, v in entry.items()}]
        elif entry.endswith("/*"):
            below = [uri for uri in uris if uri.startswith(entry[:-1])]
            first = [f"{entry[:-1]}index.md", f"{PYTHON}/medvit.md"]
            filled += [uri for uri in first if uri in below] + sorted(set(below) - set(first))
        else:
            filled.append(entry)
    return filled


def _copy(files: Files, config: MkDocsConfig, source: str, uri: str) -> None:
    files.append(File.generated(config, uri, abs_src_path=str(ROOT / source)))
    _repository_path[uri] = source


def _link(found: re.Match[str], source: str, uri: str) -> str:
    picture, text, target = found.groups()
    address, _, anchor = target.partition("#")
    if not address or re.match(r"[a-z]+:", address):
        return found[0]
    place = posixpath.normpath(posixpath.join(posixpath.dirname(source), address))
    pages = {repository: page for page, repository in _repository_path.items()}
    if place in pages:
        path = posixpath.relpath(pages[place], posixpath.dirname(uri) or ".")
        return f"{picture}[{text}]({path}{'#' + anchor if anchor else ''})"
    return text if (ROOT / place).exists() else found[0]


def bundle_folders() -> list[Path]:
    """Return the folders of the shipped bundles."""
    return sorted(path.parent.parent for path in (ROOT / "bundles").glob("*/configs/metadata.json"))


def generated_pages() -> Iterator[tuple[str, str]]:
    """Yield each generated page: its path on the site and its Markdown."""
    commands = dict(command_pages())
    yield from commands.items()
    yield f"{COMMANDS}/index.md", _commands_index()
    rooms = list(room_pages())
    yield from rooms
    yield f"{PYTHON}/index.md", _rooms_index(rooms)
    yield f"{MODELS}/index.md", _models_index()


# Commands


def leaves() -> Iterator[tuple[str, Any]]:
    """Yield the words of each command that can be run and is not hidden, with Typer's object for it."""
    import typer

    from medvit.cli.main import app

    yield from _below(typer.main.get_command(app), "")


def _below(command: Any, words: str) -> Iterator[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        if not command.hidden:
            yield words, command
        return
    for name, part in command.commands.items():
        yield from _below(part, f"{words} {name}".strip())


def command_pages() -> Iterator[tuple[str, str]]:
    """Yield one page for each top-level command, its subcommands as sections."""
    groups: dict[str, list[tuple[str, Any]]] = {}
    for words, command in leaves():
        groups.setdefault(words.split()[0], []).append((words, command))
    for name, members in groups.items():
        lines = [f"# medvit {name}", ""]
        for words, command in members:
            if words != name:
                lines += [f"## medvit {words}", ""]
            lines += _command(words, command)
        yield f"{COMMANDS}/{name}.md", "\n".join(lines) + "\n"


def _command(words: str, command: Any) -> list[str]:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name != "argument" and not p.hidden and p.name != "help"]
    usage = ["medvit", words]
    usage += [_argument_name(p) if p.required else f"[{_argument_name(p)}]" for p in arguments]
    usage += [f"{p.opts[0]} {p.name.upper()}" for p in options if p.required]
    lines = [_text(command.help), "", "```", " ".join([*usage, "[OPTIONS]"] if options else usage), "```", ""]
    if arguments:
        lines += ["| argument | what it is |", "|---|---|"]
        lines += [f"| `{_argument_name(p)}` | {_cell(p.help)} |" for p in arguments]
        lines.append("")
    if options:
        lines += ["| option | value | default | what it does |", "|---|---|---|---|"]
        for p in options:
            names = ", ".join(f"`{name}`" for name in [*p.opts, *p.secondary_opts])
            lines.append(f"| {names} | {_kind(p)} | {_default(p)} | {_cell(p.help)} |")
        lines.append("")
    return lines


def _argument_name(parameter: Any) -> str:
    return (parameter.metavar or parameter.name).upper() + ("..." if parameter.nargs == -1 else "")


def _kind(parameter: Any) -> str:
    if getattr(parameter, "is_flag", False):
        return "flag"
    kind = parameter.type_descriptor.annotation
    kind = next(iter(get_args(kind)), kind)  # of a list, the kind of one value
    if isinstance(kind, EnumType):
        name = ", ".join(f"`{member.value}`" for member in kind)
    else:
        names = {"str": "text", "int": "whole number", "float": "number", "Path": "path"}
        name = names.get(kind.__name__, kind.__name__)
    return name + (", repeatable" if getattr(parameter, "multiple", False) else "")


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    default = getattr(parameter.default, "value", parameter.default)
    if callable(default) or default in (None, False, "", (), []):
        return ""
    return "on" if default is True else f"`{default}`"


def _text(words: str | None) -> str:
    return re.sub(r"[\b\f]", "", words or "").strip()


def _cell(words: str | None) -> str:
    return " ".join(_text(words).split()).replace("|", "\\|").replace("<", "&lt;")


def _first(words: str | None) -> str:
    return _cell((words or "").strip().split("\n\n")[0])


def _commands_index() -> str:
    rows = []
    for words, command in leaves():
        name = words.split()[0]
        anchor = "" if words == name else "#" + re.sub(r"[^a-z0-9]+", "-", f"medvit {words}".lower())
        rows.append(f"| [`medvit {words}`]({name}.md{anchor}) | {_first(command.help)} |")
    return "\n".join(
        [
            "# Commands",
            "",
            "These pages are generated from the commands themselves. `medvit COMMAND --help` prints the same.",
            "",
            "Exit codes of every command: 0 done, 1 failed, 2 wrong use, 3 partly done or flagged: a person must look.",
            "",
            "| command | what it does |",
            "|---|---|",
            *rows,
            "",
        ]
    )


# Python


def faces() -> dict[str, dict[str, str]]:
    """Return the exported names of medvit and of each room, each with the module that defines it."""
    found: dict[str, dict[str, str]] = {"medvit": _top_level()}
    for stub in sorted((ROOT / "medvit").rglob("__init__.pyi")):
        room = ".".join(stub.parent.relative_to(ROOT).parts)
        if room != "medvit.cli":
            found[room] = face(stub.with_suffix(".py"), room)
    kernels = face(ROOT / "medvit/kernels/__init__.py", KERNELS)
    found[KERNELS] = {name: module for name, module in kernels.items() if not name.startswith("_")}
    return found


def _top_level() -> dict[str, str]:
    import medvit

    return dict(medvit._HOMES)


def room_pages() -> Iterator[tuple[str, str]]:
    """Yield one page for each folder of ``medvit/`` with the names of its face and of the faces below."""
    groups: dict[str, list[str]] = {}
    known = faces()
    for room in known:
        parts = room.split(".")
        groups.setdefault(parts[1] if len(parts) > 1 else "medvit", []).append(room)
    described: dict[str, str] = {}
    for group, rooms in sorted(groups.items(), key=lambda item: (item[0] != "medvit", item[0])):
        title = "medvit" if group == "medvit" else f"medvit.{group}"
        lines = [f"# {title}", "", _module_summary(title), ""]
        for room in rooms:
            if room != title:
                lines += [f"## {room}", "", _module_summary(room), ""]
            for name, module in sorted(known[room].items(), key=lambda item: item[0].lower()):
                home = _home(known, module, name)
                first = described.setdefault(f"{home}.{name}", f"{room}.{name}")
                if first == f"{room}.{name}":
                    lines += _entry(room, name, home)
                else:
                    lines += [f"### {room}.{name}", "", f"The same as [`{first}`][{home}.{name}].", ""]
        yield f"{PYTHON}/{group}.md", "\n".join(lines)


def _home(known: dict[str, dict[str, str]], module: str, name: str) -> str:
    """Follow a name through the faces to the module that defines it."""
    while module in known and name in known[module]:
        module = known[module][name]
    return module


def _entry(room: str, name: str, module: str) -> list[str]:
    """Return the lines of one exported name; those of mkdocstrings, except where several names share one assignment."""
    path = ROOT.joinpath(*module.split("."))
    source = path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"
    body = ast.parse(source.read_text(encoding="utf-8")).body
    for statement, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Tuple):
            targets = statement.targets[0].elts
            if any(isinstance(target, ast.Name) and target.id == name for target in targets):
                string = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                return [f"### {room}.{name}", "", str(after.value.value) if string else "", ""]
    return [f"::: {module}.{name}", "    options:", f"      heading: {room}.{name}", ""]


def _module_summary(room: str) -> str:
    path = ROOT.joinpath(*room.split(".")) / "__init__.py"
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n\n")[0]


def _rooms_index(pages: list[tuple[str, str]]) -> str:
    rows = []
    for uri, text in pages:
        title, summary = text.split("\n", 3)[0][2:], text.split("\n", 3)[2]
        rows.append(f"| [`{title}`]({posixpath.basename(uri)}) | {_cell(summary)} |")
    return "\n".join(
        [
            "# Python API",
            "",
            "These pages are generated from the code: one page for each package, with every name that it exports.",
            "Start with [`medvit`](medvit.md). [Use medvit from Python](../../python.md) shows examples.",
            "",
            "| package | what it holds |",
            "|---|---|",
            *rows,
            "",
        ]
    )


# Models


def _models_index() -> str:
    lines = [
        "# Models and their limits",
        "",
        "Each model is a MONAI bundle. This table is generated from the bundles' metadata. A model's page states its intended",
        "use, its limits, its training data, its scores and its licence. For research use, not for diagnosis.",
        "",
        "| bundle | task | images | score | best rating | licence |",
        "|---|---|---|---|---|---|",
    ]
    best = _best_ratings()
    for folder in bundle_folders():
        data = json.loads((folder / "configs/metadata.json").read_text(encoding="utf-8"))
        own = data["medvit"]
        lines.append(
            f"| [{folder.name}]({folder.name}/index.md) | {_cell(data['task'])} | {', '.join(own['modalities'])} "
            f"| {_score(data.get('eval_metrics', {}))} | {best[folder.name]} | {_cell(own['licence'])} |"
        )
    lines += [
        "",
        "The best rating is the highest one that a result of the bundle can get.",
        "[How far you can trust a result](../rating.md) explains it.",
        "",
    ]
    return "\n".join(lines)


def _best_ratings() -> dict[str, str]:
    """Return the best rating of each bundle, as ``medvit bundles list`` prints it."""
    from typer.testing import CliRunner

    from medvit.cli.main import app

    listed = CliRunner().invoke(app, ["bundles", "list", "--json"])
    return {row["name"]: row["best_rating"] for row in json.loads(listed.stdout)}


def _score(metrics: dict[str, float]) -> str:
    """Word the first score of the metadata."""
    words = {
        "mean_dice": "mean Dice {:.3f}",
        "published_mean_dice": "mean Dice {:.2f}, as published; not measured here",
        "psnr_gain_db": "{:+.2f} dB PSNR",
    }
    name = next((name for name in words if name in metrics), "")
    return words[name].format(metrics[name]) if name else ""
