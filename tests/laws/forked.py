"""Runs of medvit command lines in forks of one process with the command line loaded; they report exit codes and loaded
modules.

A program of its own: it reads a list of command lines as JSON from standard input and prints one report for each, after the
reports for ``import medvit`` and ``medvit --help``. Only the standard library is imported here, since the tests
ask which modules were loaded.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from importlib.metadata import packages_distributions, requires
from typing import Any

LIMIT_S = 100
OWN = ("medvit", "medvit_batch", "medvit_label", "medvit_napari")


def required() -> set[str]:
    """List the top-level names of the packages that medvit requires, extras included.

    What those load in turn differs between their versions and with what else is installed.
    """
    wanted = {re.split(r"[^\w.-]", line)[0].lower() for line in requires("medvit") or ()}
    return {top for top, packages in packages_distributions().items() if wanted & {name.lower() for name in packages}}


_REQUIRED = required()


def loaded() -> dict[str, Any]:
    """List the required third-party packages that are loaded, and count medvit's own modules."""
    tops = {name.partition(".")[0] for name in sys.modules}
    third_party = sorted(top for top in tops & _REQUIRED if not top.startswith("_") and top not in OWN)
    own = {top: sum(name.partition(".")[0] == top for name in sys.modules) for top in OWN}
    return {"third_party": third_party, "medvit_modules": {top: count for top, count in own.items() if count}}


def in_a_copy(arguments: list[str]) -> dict[str, Any]:
    """Run ``medvit`` with these arguments in a fork of this process; report its exit code and loaded modules."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        report: dict[str, Any] = {"exit_code": "no end"}
        try:
            report["exit_code"] = _run(arguments)
        finally:
            os.write(writing, json.dumps(report | loaded()).encode())
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        content = pipe.read()
    os.waitpid(child, 0)
    return json.loads(content) if content else {"exit_code": f"killed after {LIMIT_S} s"}


def _run(arguments: list[str]) -> int | str:
    signal.alarm(LIMIT_S)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    sys.argv = ["medvit", *arguments]
    from medvit.cli.main import app

    try:
        app()
    except SystemExit as end:
        return end.code if isinstance(end.code, int | str) else 0
    except BaseException as error:
        return f"traceback of {type(error).__name__}"
    return 0


def main() -> None:
    """Report the modules loaded by importing medvit, by the help and by each command line."""
    asked: list[list[str]] = json.load(sys.stdin)
    import medvit

    assert medvit.__version__
    reports = [{"exit_code": 0} | loaded(), in_a_copy(["--help"])]
    import medvit.cli.main

    reports += [in_a_copy(line) for line in asked]
    json.dump(reports, sys.stdout)


if __name__ == "__main__":
    main()
