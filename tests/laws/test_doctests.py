"""Docstrings of the public names: their examples run as doctests, and the names of the top-level faces are documented in full."""

import ast
import doctest
import inspect
import re
import sys
import textwrap
from importlib import import_module
from pathlib import Path

import pytest

import medvit

PACKAGE = Path(medvit.__file__).parent
ROOMS = sorted(
    ".".join(["medvit", *path.relative_to(PACKAGE).parent.parts])
    for path in PACKAGE.rglob("__init__.py*")
    if path.suffix == ".pyi" or "__all__ = [" in path.read_text()
)
"""The packages of medvit that export names."""

FACES = """
medvit medvit.bundles medvit.deidentification medvit.inference medvit.io medvit.kernels medvit.reconstruction medvit.reports
medvit.restoration medvit.segmentation medvit.tasks
""".split()
"""The faces whose names need Args, Returns, Raises and an example."""

LACKING: dict[str, str] = {}
"""Names of each face that still lack a section or an example. Remove a name here when its docstring is complete."""

AT_MOST = 0
"""The largest number of names that ``LACKING`` may hold; lower it when the list has become shorter."""


def public(room: str) -> dict[str, object]:
    """Return the classes and functions that a package exports and medvit defines, by name."""
    module = import_module(room)
    exported = {name: getattr(module, name) for name in module.__all__}
    return {
        name: value
        for name, value in exported.items()
        if (inspect.isclass(value) or inspect.isroutine(value)) and value.__module__.partition(".")[0] == "medvit"
    }


def code_that_raises(value: object) -> list[object]:
    """Return the functions whose ``raise`` statements the docstring of a name has to explain."""
    if inspect.isclass(value):
        return [vars(value)[name] for name in ("__init__", "__post_init__") if name in vars(value)]
    return [value]


def raises(value: object) -> bool:
    """Return True where the code of a function, or of a constructor, has a ``raise`` with an exception."""
    if getattr(value, "_is_protocol", False):  # the constructor of a protocol is Python's own
        return False
    for function in code_that_raises(value):
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        except (OSError, TypeError):  # made by dataclass: there is no source
            continue
        if any(isinstance(node, ast.Raise) and node.exc for node in ast.walk(tree)):
            return True
    return False


def missing(value: object) -> list[str]:
    """List the parts that the docstring of a class or function lacks."""
    text = inspect.getdoc(value) or ""
    lacks = [] if re.search(r"^\s*>>> ", text, re.M) else ["an example"]
    if raises(value) and "Raises:" not in text:
        lacks.append("Raises")
    if inspect.isclass(value) and (issubclass(value, BaseException) or getattr(value, "_is_protocol", False)):
        return lacks
    signature = inspect.signature(value)
    parameters = [
        name for name, one in signature.parameters.items() if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    ]
    lacks += [f"the argument {name}" for name in parameters if not re.search(rf"^\s+[\w, *]*\b{name}\b.*:", text, re.M)]
    returned = str(signature.return_annotation)
    if not inspect.isclass(value) and returned != "None" and not re.search(r"^(Returns|Yields):", text, re.M):
        lacks.append("Returns")
    return lacks


def run_examples(value: object, name: str) -> doctest.TestResults:
    """Run the examples of a name and of its methods, each in an empty namespace; they print into the captured output."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for test in finder.find(value, name, sys.modules[value.__module__], globs={}):
        runner.run(test)
    return runner.summarize(verbose=False)


@pytest.mark.parametrize("room", ROOMS)
def test_examples_of_public_names_run(room, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = public(room)
    failed = {name for name, value in names.items() if run_examples(value, f"{room}.{name}").failed}
    assert not failed


@pytest.mark.parametrize("face", FACES)
def test_public_names_are_documented_in_full(face):
    lacks = {name: found for name, value in public(face).items() if (found := missing(value))}
    listed = set(LACKING.get(face, "").split())
    new = {name: found for name, found in lacks.items() if name not in listed}
    assert not new, f"The docstrings of these names of {face} are incomplete: {new}"
    assert not listed - lacks.keys(), "These names are complete, or gone: remove them from LACKING."


def test_the_list_of_incomplete_names_only_shrinks():
    names = [name for face in LACKING.values() for name in face.split()]
    assert LACKING.keys() <= set(FACES)
    assert len(names) <= AT_MOST


def documented(number: int) -> int:
    """Return the number.

    Args:
        number: any.

    Returns:
        The number.

    Raises:
        ValueError: where the number is negative.

    Examples:
        >>> documented(3)
        3
    """
    if number < 0:
        raise ValueError(number)
    return number


def undocumented(number: int) -> int:
    """Return the number."""
    if number < 0:
        raise ValueError(number)
    return number


def wrong(number: int) -> int:
    """Return the number.

    Examples:
        >>> 1 + 1
        3
    """
    return number


def test_the_check_names_each_missing_part():
    assert missing(documented) == []
    assert missing(undocumented) == ["an example", "Raises", "the argument number", "Returns"]


def test_a_wrong_example_fails(capsys):
    assert run_examples(wrong, "wrong") == (1, 1)
    assert "Expected:\n    3\nGot:\n    2" in capsys.readouterr().out
