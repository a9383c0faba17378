"""What commands load, found in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from typing import Any

from tests.laws.mistakes import MISTAKES, lines, places
from tests.laws.scratch import scratch

SPARED = 0.1
"""Share by which the number of medvit's own modules may differ from the pinned one."""


@cache
def modules() -> dict[str, Any]:
    """List what ``import medvit``, the help and the first mistake of each command load.

    Third-party modules are named by their top level, of what medvit requires; those of a mistake are what comes beside those of the help.
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
    reports: dict[str, Any] = dict(zip(["import medvit", "--help", *asked], json.loads(outcome.stdout), strict=True))
    for name in asked:
        reports[name]["third_party"] = sorted(set(reports[name]["third_party"]) - set(reports["--help"]["third_party"]))
    return reports


def agree(pinned: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Take out small differences in the number of medvit's own modules: files may be split and joined."""
    taken: dict[str, Any] = json.loads(json.dumps(found))
    for name, entry in taken.items():
        for top, count in entry["medvit_modules"].items():
            before = pinned.get(name, {}).get("medvit_modules", {}).get(top)
            if before is not None and abs(count - before) <= max(3, SPARED * before):
                entry["medvit_modules"][top] = before
    return taken
