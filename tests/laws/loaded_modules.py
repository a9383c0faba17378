"""Modules that commands load, observed in separate processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from typing import Any

from tests.laws.mistakes import MISTAKES, lines, places
from tests.laws.scratch import scratch

SPARED = 0.25
"""Share by which the number of medvit's own modules may differ from the pinned number, since files may be split or
joined.
"""


@cache
def modules() -> dict[str, Any]:
    """List the modules that ``import medvit``, the help and the first mistake of each command load, with the exit
    codes.

    Third-party modules are named by their top-level package, and only packages that medvit requires are listed. A mistake has
    the modules that the help did not load.
    """
    asked = {}
    with scratch() as folder:
        where = places(folder)
        for command in MISTAKES:
            label, line = next(iter(lines(command, where).items()))
            if command:
                asked[f"{command}: {label}"] = line
        outcome = subprocess.run(
            [sys.executable, "-m", "tests.laws.forked"], input=json.dumps(list(asked.values())), capture_output=True,
            text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    assert outcome.returncode == 0, outcome.stderr
    reports = dict(zip(["import medvit", "--help", *asked], json.loads(outcome.stdout), strict=True))
    for name in asked:
        reports[name]["third_party"] = sorted(set(reports[name]["third_party"]) - set(reports["--help"]["third_party"]))
    parts = ("third_party", "medvit_modules", "exit_code")
    return {part: {name: report[part] for name, report in reports.items()} for part in parts}


def agree(pinned: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Ignore small differences in the number of medvit's own modules."""
    counts = {}
    for name, modules in found["medvit_modules"].items():
        before = pinned.get("medvit_modules", {}).get(name, {})
        counts[name] = {top: _near(before.get(top, 0), count) for top, count in modules.items()}
    return {**found, "medvit_modules": counts}


def _near(before: int, count: int) -> int:
    return before if before and abs(count - before) <= max(5, SPARED * before) else count
