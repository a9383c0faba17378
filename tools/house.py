"""Print the numbers that describe the layout of the code, and fail where one is past its limit: ``python
tools/house.py``.

With ``--places`` it lists the places as well.

- Loose modules: files directly in ``medvit/``, without ``__init__``, ``__main__`` and ``_version``.
- Import circles: groups of files that import each other. Imports for types alone and imports inside functions count. A
  name imported from a room's face counts as an import of the file that defines it; the face itself does not count.
- Ways to run: modules that run a loaded bundle to make a result, by ``apply`` of ``medvit.inference`` or by ``predict``
  of a task that they name. ``medvit.pipeline`` is the one that should; the tasks and ``medvit.inference`` are what it
  runs.
- Sizes, parameters and first words of docstrings: see ``tools/code_style.py``.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import code_style

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "medvit": ROOT / "medvit",
    "medvit_batch": ROOT / "apps/batch/medvit_batch",
    "medvit_label": ROOT / "apps/monailabel/medvit_label",
    "medvit_napari": ROOT / "apps/napari/medvit_napari",
}
LOOSE = 8
"""Largest number of loose modules that the design allows."""
CIRCLES = 0
"""The largest number of import circles: the design allows none."""
WAYS = 1
"""Largest number of modules beside the pipeline that may run a bundle: only the precision check, which runs before a
precision is allowed."""
MANY_PARAMETERS = frozenset({"SlidingWindow", "SwinUNETR", "SwinX2S", "convert"})
"""Constructors pinned in the shared INTERFACES.md, and ``medvit.convert``, a one-call function of the pinned face: they
take more than eight parameters, all beyond the first two by keyword."""
STYLE = {"long_files": 0, "long_functions": 0, "many_parameters": 0, "positional": 0, "questions": 0}
"""The largest number of places past each limit of style."""
NOT_LOOSE = {"__init__", "__main__", "_version"}


def modules() -> dict[str, Path]:
    """Return every module of the packages by its dotted name."""
    found = {}
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = [package, *path.relative_to(folder).with_suffix("").parts]
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def face(path: Path, package: str) -> dict[str, str]:
    """Return the names that a room's face shows, each with the module that defines it."""
    stub = path.with_suffix(".pyi")
    source = stub if stub.is_file() else path
    shown = {}
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.ImportFrom):
            module = f"{package}.{node.module}" if node.level else node.module
            shown.update({alias.asname or alias.name: f"{module}" for alias in node.names})
    return shown


def imported(path: Path, names: dict[str, Path], faces: dict[str, dict[str, str]]) -> Iterator[str]:
    """Yield the modules that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                module, seen = node.module, set()
                while alias.name in faces.get(module, {}) and module not in seen:
                    seen.add(module)
                    module = faces[module][alias.name]
                within = f"{module}.{alias.name}"
                yield within if within in names else module


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of modules that reach each other (Tarjan's strongly connected components of two or more)."""
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(name: str) -> None:
        number[name] = low[name] = len(number)
        stack.append(name)
        for other in sorted(graph[name]):
            if other not in number:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], number[other])
        if low[name] == number[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                found.append(sorted(group))

    for name in graph:
        if name not in number:
            visit(name)
    return found


def runs_a_bundle(path: Path) -> bool:
    """Return True if a file calls ``apply`` of ``medvit.inference``, or ``predict`` of a task that it names."""
    applies = names_task = predicts = False
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            names = {alias.name for alias in node.names}
            applies |= (node.module or "").startswith("medvit.inference") and "apply" in names
            names_task |= any(name == "task_of" or name.endswith("Task") for name in names)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            called, of = node.func.attr, node.func.value
            applies |= called == "apply" and "inference" in (getattr(of, "id", ""), getattr(of, "attr", ""))
            predicts |= called == "predict"
    return applies or (names_task and predicts)


def ways_to_run(names: dict[str, Path]) -> list[str]:
    """Return the modules beside the pipeline, the tasks and the inference room that run a bundle."""
    tasks = {f"medvit.{name}.task" for name in ("segmentation", "restoration", "reconstruction")}
    others = (name for name in names if name not in {"medvit.pipeline", *tasks})
    return [name for name in others if not name.startswith("medvit.inference") and runs_a_bundle(names[name])]


def style(names: dict[str, Path], places: bool) -> bool:
    """Print the numbers of style; return whether one is past its limit."""
    found = code_style.Findings()
    for path in names.values():
        code_style.look_at(path, str(path.relative_to(ROOT)), found, MANY_PARAMETERS)
    titles = {
        "long_files": f"Files over {code_style.FILE_LINES} lines",
        "long_functions": f"Functions over {code_style.FUNCTION_LINES} lines",
        "many_parameters": f"Functions with more than {code_style.PARAMETERS} parameters",
        "positional": f"Dataclasses with more than {code_style.POSITIONAL_FIELDS} fields by position",
        "questions": "Docstrings that open with What, Whether, Whose, How, Where, Why or Of",
    }
    for kind, title in titles.items():
        listed = getattr(found, kind)
        print(f"{title}: {len(listed)} (at most {STYLE[kind]})")
        if places or len(listed) > STYLE[kind]:
            print(*(f"  {place}" for place in listed), sep="\n")
    print(f"Lines of code: {found.code_lines:,} (at most {code_style.CODE_LINES:,})")
    return any(len(getattr(found, kind)) > STYLE[kind] for kind in titles)


def main() -> int:
    """Print the numbers; 1 where one is past its limit."""
    sys.setrecursionlimit(10_000)
    names = modules()
    faces = {name: face(path, name) for name, path in names.items() if path.name == "__init__.py"}
    files = {name: path for name, path in names.items() if path.name != "__init__.py"}
    graph = {
        name: {other for other in imported(path, names, faces) if other in files} - {name}
        for name, path in files.items()
    }
    loose = sorted(path.stem for path in PACKAGES["medvit"].glob("*.py") if path.stem not in NOT_LOOSE)
    groups = circles(graph)
    print(f"Modules loose in medvit/: {len(loose)} (at most {LOOSE}): {', '.join(loose)}")
    print(f"Import circles: {len(groups)} (at most {CIRCLES})")
    for group in groups:
        print(f"  {len(group)} files: {', '.join(group)}")
    others = ways_to_run(names)
    print(f"Ways to run: 1, and {len(others)} beside it (at most {WAYS}): {', '.join(others)}")
    past = len(loose) > LOOSE or len(groups) > CIRCLES or len(others) > WAYS
    return int(style(names, "--places" in sys.argv[1:]) or past)


if __name__ == "__main__":
    raise SystemExit(main())
