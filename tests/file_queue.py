"""What makes several pytests share one run: each takes the next file that no other has taken. Loaded by ``tests/run.py`` alone.

The queue is a folder: whoever can create the file that stands for a test file has taken it.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import pytest

QUEUE = Path(os.environ.pop("MEDVIT_TEST_QUEUE"))
NUMBER = os.environ.pop("MEDVIT_TEST_PROCESS")

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts work in the background has it ignored

_SHORT, _LONG = 0.2, 30.0
"""Seconds expected of a test, and of one of the long runs, of which nothing is known."""

_spent: Counter[str] = Counter()


@pytest.hookimpl(trylast=True)  # after those that are not to be run are left out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files first that are expected to take longest; within a file the order stays."""
    known: dict[str, float] = json.loads((QUEUE / "known.json").read_text())
    expected: Counter[Path] = Counter()
    for item in items:
        long = item.get_closest_marker("soak") is not None and not known
        expected[item.path] += known.get(item.nodeid, _LONG if long else _SHORT)
    items.sort(key=lambda item: (-expected[item.path], item.path))


def _taken(items: list[pytest.Item]) -> Iterator[pytest.Item]:
    for path, tests in groupby(items, key=lambda item: item.path):
        try:
            with (QUEUE / f"{hashlib.sha256(str(path).encode()).hexdigest()}.taken").open("x") as file:
                file.write(f"{NUMBER} {path}")
        except FileExistsError:
            continue
        yield from tests


def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Run what this process takes. The next test is known before one ends, so that what both need is not set up twice."""
    options = session.config.option
    if session.testsfailed and not options.continue_on_collection_errors:
        return None  # pytest's own loop says so
    tests = _taken([] if options.collectonly else session.items)
    test = next(tests, None)
    while test is not None:
        following = next(tests, None)
        test.config.hook.pytest_runtest_protocol(item=test, nextitem=following)
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
        if session.shouldstop:
            raise session.Interrupted(session.shouldstop)
        test = following
    spent = {name: round(seconds, 1) for name, seconds in _spent.items()}
    (QUEUE / f"{NUMBER}.ended").write_text(json.dumps(spent))
    return True


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Add up set-up, call and tear-down."""
    _spent[report.nodeid] += report.duration
