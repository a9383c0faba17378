"""Numbers that describe how the code is written: sizes, parameters and the first words of docstrings.

``python tools/house.py`` prints them beside the numbers of the layout and fails where one is past its limit. Lines of
docstrings, comments and blank lines do not count, unless a function's name says otherwise.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

FILE_LINES = 300
"""The largest number of lines of a file, docstrings left out."""
FUNCTION_LINES = 60
"""The largest number of lines of a function, its docstring left out; of a command, those of its body."""
PARAMETERS = 8
"""The largest number of parameters of a function, ``self`` left out."""
POSITIONAL_FIELDS = 4
"""The largest number of fields that a dataclass takes by position."""
CODE_LINES = 43_323
"""The lines of code of commit f499db4; the rebuilding of the house ends with fewer."""
QUESTION = re.compile(r"(What|Whether|Whose|How|Where|Why|Of)\b")
"""The first words that no docstring has: it opens with a verb or with the noun that it describes."""

_Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(kw_only=True)
class Findings:
    """Places past a limit, each as ``file:line name``, and the number of lines of code."""

    long_files: list[str] = field(default_factory=list)
    long_functions: list[str] = field(default_factory=list)
    many_parameters: list[str] = field(default_factory=list)
    positional: list[str] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)
    code_lines: int = 0


def docstrings(tree: ast.Module) -> Iterator[ast.Constant]:
    """Yield the strings that stand alone as statements: docstrings, and the texts below constants and fields."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value


def without_docstrings(node: ast.Module | _Function) -> int:
    """Count the lines of a file or a function, blank lines and comments among them, docstrings left out."""
    last = node.body[-1].end_lineno or 0 if isinstance(node, ast.Module) and node.body else 0
    lines = last if isinstance(node, ast.Module) else (node.end_lineno or 0) - node.lineno + 1
    inside = ast.Module(body=node.body, type_ignores=[])
    return lines - sum((text.end_lineno or 0) - text.lineno + 1 for text in docstrings(inside))


def code_lines(source: str, tree: ast.Module) -> int:
    """Count the lines that hold code: no docstring, no comment, no blank line."""
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING}
    held: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in skipped and token.type != tokenize.ENDMARKER:
            held.update(range(token.start[0], token.end[0] + 1))
    for text in docstrings(tree):
        held.difference_update(range(text.lineno, (text.end_lineno or 0) + 1))
    return len(held)


def is_command(node: _Function, source: str) -> bool:
    """Return True if a function is a command or a route: its parameters are the options and fields that users give."""
    routed = re.compile(r"\.(command|callback|get|post|put|delete|api_route)\(")
    if any(routed.search(ast.unparse(decorator)) for decorator in node.decorator_list):
        return True
    return "import typer" in source and len(parameters(node)) > PARAMETERS


def is_kernel(node: _Function, name: str) -> bool:
    """Return True if a function is compiled (numba), or belongs to the kernels, which take arrays one by one."""
    return "/kernels/" in name or any("jit" in ast.unparse(decorator) for decorator in node.decorator_list)


def parameters(node: _Function) -> list[ast.arg]:
    """Return the parameters of a function without ``self``, ``cls``, ``*args`` and ``**kwargs``."""
    given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return [arg for arg in given if arg.arg not in ("self", "cls")]


def by_position(node: _Function) -> int:
    """Count the parameters that a function takes by position."""
    given = [*node.args.posonlyargs, *node.args.args]
    return len([arg for arg in given if arg.arg not in ("self", "cls")])


def positional_fields(node: ast.ClassDef) -> int:
    """Count the fields that a dataclass takes by position; 0 for a keyword-only one and for other classes."""
    decorators = [ast.unparse(d) for d in node.decorator_list]
    if not any(re.match(r"(dataclasses\.)?dataclass\b", d) for d in decorators) or any(
        "kw_only=True" in d for d in decorators
    ):
        return 0
    fields = 0
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) and not ast.unparse(statement.annotation).startswith("ClassVar"):
            if ast.unparse(statement.annotation) == "KW_ONLY":
                break
            fields += "kw_only=True" not in ast.unparse(statement)
    return fields


def look_at(path: Path, name: str, found: Findings, exempt: frozenset[str] = frozenset()) -> None:
    """Add the findings of one file.

    Args:
        path: the file.
        name: the path to print.
        found: the findings so far; changed in place.
        exempt: the names of functions and classes that users call with more parameters; they take all beyond the first two by
            keyword.
    """
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    found.code_lines += code_lines(source, tree)
    if (lines := without_docstrings(tree)) > FILE_LINES:
        found.long_files.append(f"{name} {lines}")
    for text in docstrings(tree):
        if QUESTION.match(str(text.value)):
            found.questions.append(f"{name}:{text.lineno} {str(text.value).splitlines()[0]}")
    constructors = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            constructors.update({child: node.name for child in node.body if getattr(child, "name", "") == "__init__"})
            if positional_fields(node) > POSITIONAL_FIELDS:
                found.positional.append(f"{name}:{node.lineno} {node.name}")
        elif isinstance(node, _Function):
            called = constructors.get(node, node.name)
            where = f"{name}:{node.lineno} {called}"
            command = is_command(node, source)
            lines = (node.end_lineno or 0) - node.body[0].lineno + 1 if command else without_docstrings(node)
            if lines > FUNCTION_LINES:
                found.long_functions.append(f"{where} {lines}")
            free = command or called in exempt or is_kernel(node, name)
            many = not command and (count := len(parameters(node))) > PARAMETERS
            if many and not free:
                found.many_parameters.append(f"{where} {count}")
            if many and called in exempt and (count := by_position(node)) > 2:
                found.many_parameters.append(f"{where} {count} by position")
