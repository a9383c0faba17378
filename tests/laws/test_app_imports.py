"""Imports of the apps: they use only the faces of medvit's rooms, so that files behind a face can move."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.laws.faces import after_every_import

ROOT = Path(__file__).resolve().parents[2]
GROUND = {f"medvit.{name}" for name in ("atomic_write", "errors", "labels", "progress", "settings")}
"""Modules below all rooms, which every module may import."""

APPS = {"medvit_napari": ROOT / "apps/napari/medvit_napari"}


def imports(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield line, module and name of each import from medvit in a file; the name is empty for ``import``."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, "") for alias in node.names if _is_medvit(alias.name))
        elif isinstance(node, ast.ImportFrom) and node.module and _is_medvit(node.module):
            yield from ((node.lineno, node.module, alias.name) for alias in node.names)


def _is_medvit(module: str) -> bool:
    return module.split(".")[0] == "medvit"


def past_faces(text: str, faces: dict[str, dict[str, str]]) -> list[str]:
    """List the imports of a file that are neither of a ground module nor of a name on a room's face."""
    return [
        f"line {line}: {module} {name}".rstrip()
        for line, module, name in imports(text)
        if module not in GROUND and not (module in faces and (not name or name in faces[module]))
    ]


@pytest.mark.parametrize("app", sorted(APPS))
def test_an_app_imports_from_faces_only(app):
    if find_spec("napari") is None:
        pytest.skip("the extra medvit[napari] is not installed")
    faces = after_every_import()["faces"]
    found = {
        str(path.relative_to(ROOT)): past
        for path in sorted(APPS[app].rglob("*.py"))
        if (past := past_faces(path.read_text(), faces))
    }
    assert found == {}


def test_what_lies_behind_a_face_is_told_from_it():
    faces = {"medvit": {"run": "function"}, "medvit.io": {"Scan": "class"}}
    text = """
import medvit
import medvit.io.scan
from medvit.errors import MedvitError
from medvit.io import Scan, images
from medvit.io.scan import Scan as Same
from medvit_napari.errors import readable

def late():
    from medvit import run
    from medvit.pipeline import run_many
"""
    assert past_faces(text, faces) == [
        "line 3: medvit.io.scan",
        "line 5: medvit.io images",
        "line 6: medvit.io.scan Scan",
        "line 11: medvit.pipeline run_many",
    ]
