"""Errors of the library name options and commands by tokens, which each door words: never as the command line has them."""

import ast
import importlib
import pickle
import re
from pathlib import Path

import pytest

from medvit.errors import MedvitError

ROOT = Path(__file__).resolve().parents[2]
AS_COMMAND_LINE = re.compile(
    r"(?<![\w-])(--[a-z][a-z-]+|-ot|-o|-b)\b|\bmedvit (bundles|segment|restore|reconstruct|drr|inspect|convert|train)\b"
)
TOKEN = re.compile(r"\{([a-z_.]+(?:\(\))?)(?:=[^{}]*)?\}")
FOLDERS = [ROOT / "medvit", ROOT / "apps/napari/medvit_napari"]
"""Folders whose errors name no option of the command line; the other apps are commands of it themselves."""

COMMANDS = [ROOT / "medvit/cli", ROOT / "apps/batch/medvit_batch", ROOT / "apps/monailabel/medvit_label"]
"""Folders whose errors may name options of the command line."""


def family() -> list[type[MedvitError]]:
    """Return all classes of errors."""
    rooms = ("medvit.progress", "medvit.io.files", "medvit_batch.errors", "medvit_label.errors", "medvit_napari.errors")
    for room in (*rooms, "medvit_napari.server.client"):
        importlib.import_module(room)
    kinds = [MedvitError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    return list(dict.fromkeys(kinds))


def literal(node: ast.expr) -> str:
    """Return the literal text of a string expression; fields of an f-string are left out, doubled braces are single."""
    return "".join(
        part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str)
    )


def calls(everywhere: bool = False) -> list[tuple[str, ast.Call]]:
    """Return the calls that create errors, each with its place: of the library, or of the commands too."""
    names, found = {kind.__name__ for kind in family()}, []
    for path in sorted(path for folder in {*FOLDERS, *COMMANDS} for path in folder.rglob("*.py")):
        if not everywhere and any(folder in path.parents for folder in COMMANDS):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) in names:
                found.append((f"{path.relative_to(ROOT)}:{node.lineno}", node))
    return found


def texts(call: ast.Call) -> list[ast.expr]:
    return [*call.args, *(keyword.value for keyword in call.keywords if keyword.arg in ("needed", "remedy"))]


@pytest.mark.parametrize("kind", family(), ids=lambda kind: kind.__name__)
def test_every_error_can_be_framed_and_pickled(kind):
    """Classes that are an OSError too are made by another ``__new__`` than the others."""
    error = kind("3 of them", "1 is needed", "Give {like=...}.", option="like")
    framed = pickle.loads(pickle.dumps(error.framed("Nothing was written.", "See the log.")))
    assert str(framed) == "Nothing was written. Found 3 of them; 1 is needed. Give like=.... See the log."
    assert type(framed) is kind
    assert (framed.found, framed.option) == ("3 of them", ("like",))
    assert str(error) == "Found 3 of them; 1 is needed. Give like=...."
    assert type(kind.__new__(kind)) is kind  # the call by which tblib, which Dask loads, unpickles it


def test_there_are_calls_to_look_at():
    assert len(calls()) > 400


def test_no_error_of_the_library_names_an_option_or_command_of_the_command_line():
    wrong = [
        f"{place}: {match[0]}"
        for place, call in calls()
        for text in texts(call)
        if (match := AS_COMMAND_LINE.search(literal(text)))
    ]
    assert not wrong, "\n".join(wrong)


def test_no_error_is_one_finished_sentence_that_could_be_parts():
    wrong = [
        place
        for place, call in calls(everywhere=True)
        if any(literal(text).startswith("Found ") for text in texts(call))
    ]
    assert not wrong, "\n".join(wrong)


def test_the_tokens_of_an_error_are_the_options_that_it_lists():
    wrong = []
    for place, call in calls(everywhere=True):
        option = next((keyword.value for keyword in call.keywords if keyword.arg == "option"), ast.Tuple([]))
        if not isinstance(option, ast.Constant | ast.Tuple):
            continue  # made elsewhere
        listed = {part.value for part in ast.walk(option) if isinstance(part, ast.Constant)}
        used = {name for text in texts(call) for name in TOKEN.findall(literal(text))}
        whole = not any(isinstance(text, ast.Name) for text in texts(call))  # else a part is made elsewhere
        starred = any(isinstance(part, ast.Starred) for part in ast.walk(option))
        if (not starred and used - listed) or (whole and listed - used):
            wrong.append(f"{place}: {sorted(listed ^ used)}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("text", "named"),
    [("Add --force.", True), ("Correct -ot.", True), ("See medvit inspect.", True), ("an all-in-one", False)],
)
def test_the_law_knows_an_option_from_other_words(text, named):
    assert bool(AS_COMMAND_LINE.search(text)) is named
