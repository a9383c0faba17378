"""Count what the tests ask, file by file: ``python tools/count_tests.py [OLD [NEW]]``.

Without a commit the script prints the numbers of the working tree. With one or two it compares: files that share test functions
form a group, so that a file that was moved, split or joined is compared with what came of it; a file without tests is followed by
git's detection of renames. The exit status is 1 if a number fell in a group.

- tests: functions whose name begins with ``test_``.
- cases: the tests once for each combination of their ``parametrize`` marks; a list that is not written out in the file counts once.
- assert, raises, match: ``assert`` statements, calls of a function named ``raises``, arguments named ``match``.
"""

from __future__ import annotations

import ast
import io
import math
import subprocess
import sys
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = ("tests", "cases", "assert", "raises", "match")
"""The numbers that are counted, in the order of the printed table."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Counted:
    """The numbers of one file, and those of each of its test functions."""

    total: Counter[str]
    tests: dict[str, Counter[str]] = field(default_factory=dict)


def count(source: str) -> Counted:
    """Count one file from its source."""
    tree = ast.parse(source)
    lists = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    tests = {}
    for node in ast.walk(tree):
        if isinstance(node, Function) and node.name.startswith("test_"):
            tests[node.name] = _asked(node) + Counter(tests=1, cases=_cases(node, lists))
    total = _asked(tree)
    for numbers in tests.values():
        total += Counter(tests=numbers["tests"], cases=numbers["cases"])
    return Counted(total, tests)


def _asked(tree: ast.AST) -> Counter[str]:
    """Count statements and calls at any depth."""
    numbers: Counter[str] = Counter()
    for node in ast.walk(tree):
        numbers["assert"] += isinstance(node, ast.Assert)
        if isinstance(node, ast.Call):
            numbers["raises"] += _name(node.func) == "raises"
            numbers["match"] += sum(keyword.arg == "match" for keyword in node.keywords)
    return numbers


def _cases(test: Function, lists: dict[str, ast.expr]) -> int:
    """Multiply the lengths of the lists of a test's ``parametrize`` marks."""
    lengths = []
    for mark in test.decorator_list:
        if isinstance(mark, ast.Call) and _name(mark.func) == "parametrize" and len(mark.args) > 1:
            values = mark.args[1]
            values = lists.get(values.id, values) if isinstance(values, ast.Name) else values
            written = isinstance(values, ast.List | ast.Tuple | ast.Set | ast.Dict)
            lengths.append(len(list(ast.iter_child_nodes(values))) - _contexts(values) if written else 1)
    return math.prod(lengths)


def _contexts(values: ast.expr) -> int:
    """Count the children of a written list that are no elements: its context, and the values of a dictionary."""
    if isinstance(values, ast.Dict):
        return len(values.values)
    return int(isinstance(values, ast.List | ast.Tuple))


def _name(function: ast.expr) -> str:
    """Return the last part of the name of what is called."""
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def of_tree() -> dict[str, Counted]:
    """Count the files of the working tree."""
    files = sorted((ROOT / "tests").rglob("*.py"))
    return {str(path.relative_to(ROOT)): count(path.read_text()) for path in files}


def of_commit(commit: str) -> dict[str, Counted]:
    """Count the files of a commit."""
    content = _git("archive", commit, "tests")
    counted = {}
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.name.endswith(".py") else None
            if file is not None:
                counted[member.name] = count(file.read().decode())
    return counted


def _git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout


def groups(
    old: dict[str, Counted], new: dict[str, Counted], renamed: dict[str, str]
) -> list[tuple[set[str], set[str]]]:
    """Join old and new files that hold the same tests, or one of which was renamed to the other."""
    parent: dict[tuple[str, str], tuple[str, str]] = {}

    def root(of: tuple[str, str]) -> tuple[str, str]:
        while (above := parent.setdefault(of, of)) != of:
            of = above
        return of

    homes = defaultdict(set)
    for path, counted in new.items():
        for test in counted.tests:
            homes[test].add(path)
    for path, counted in old.items():
        heirs = set().union(*(homes[test] for test in counted.tests)) if path not in new else {path}
        heirs |= {renamed[path]} if path in renamed else set()
        gone = set(counted.tests) - set(new[path].tests) if path in new else set()
        for heir in heirs.union(*(homes[test] for test in gone if len(homes[test]) == 1)):
            parent[root(("old", path))] = root(("new", heir))
    joined: dict[tuple[str, str], tuple[set[str], set[str]]] = {}
    for side, names in (("old", old), ("new", new)):
        for path in names:
            joined.setdefault(root((side, path)), (set(), set()))[side == "new"].add(path)
    return list(joined.values())


def compare(old: dict[str, Counted], new: dict[str, Counted], renamed: dict[str, str]) -> Iterator[str]:
    """Yield a line for each number that fell in a group of files, with the tests that explain it."""
    for before, after in groups(old, new, renamed):
        was = sum((old[path].total for path in before), Counter[str]())
        now = sum((new[path].total for path in after), Counter[str]())
        fallen = [f"{column} {was[column]} to {now[column]}" for column in COLUMNS if now[column] < was[column]]
        if fallen:
            yield f"{', '.join(sorted(before))} -> {', '.join(sorted(after)) or 'nothing'}: {', '.join(fallen)}"
            yield from _explain([old[path] for path in sorted(before)], [new[path] for path in sorted(after)])


def _explain(before: list[Counted], after: list[Counted]) -> Iterator[str]:
    """Yield a line for each test that is gone or asks less."""
    found = {name: numbers for counted in after for name, numbers in counted.tests.items()}
    for counted in before:
        for name, was in counted.tests.items():
            if name not in found:
                yield f"    {name}: gone"
                continue
            less = [
                f"{column} {was[column]} to {found[name][column]}"
                for column in COLUMNS
                if found[name][column] < was[column]
            ]
            if less:
                yield f"    {name}: {', '.join(less)}"


def renames(old: str, new: str | None) -> dict[str, str]:
    """Return the files of the tests that git sees as renamed, old name to new."""
    lines = _git(
        "diff", "-M40%", "--diff-filter=R", "--name-status", old, *([new] if new else []), "--", "tests"
    ).decode()
    return {was: now for _, was, now in (line.split("\t") for line in lines.splitlines())}


def main(commits: list[str]) -> int:
    """Print the table of the working tree, or what fell between two commits."""
    if not commits:
        table = of_tree()
        print(" ".join(f"{column:>7}" for column in COLUMNS))
        for path, counted in table.items():
            if any(counted.total.values()):
                print(" ".join(f"{counted.total[column]:7}" for column in COLUMNS), path)
        total = sum((counted.total for counted in table.values()), Counter[str]())
        print(" ".join(f"{total[column]:7}" for column in COLUMNS), "all")
        return 0
    old, new = commits[0], commits[1] if len(commits) > 1 else None
    was, now = of_commit(old), of_commit(new) if new else of_tree()
    fallen = list(compare(was, now, renames(old, new)))
    for column in COLUMNS:
        print(f"{column}: {sum(c.total[column] for c in was.values())} to {sum(c.total[column] for c in now.values())}")
    print("\n".join(fallen) or "Nothing fell.")
    return int(bool(fallen))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
