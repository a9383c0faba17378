"""Comparison of two commits: it runs its commands on both sides and fails if a ratio is above the limit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _compare(*arguments: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "tools/compare_commits.py", *map(str, arguments)]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.mark.skipif(
    not (ROOT / ".git").exists(), reason="a commit to compare with is needed, and this is no git checkout"
)
def test_both_sides_are_measured_and_judged(tmp_path: Path) -> None:
    done = _compare(
        "HEAD", "--runs", 1, "--files", 100, "--jobs", "help", "--limit", 0.01, "--json", tmp_path / "all.json"
    )
    assert done.returncode == 1, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("| help |")]
    assert len(rows) == 2 and all("**above the limit**" in row for row in rows)
    usages = json.loads((tmp_path / "all.json").read_text())["help"]
    assert set(usages) == {"HEAD", "working tree"}
    for (used,) in usages.values():
        assert 0.02 < used["seconds"] < 60 and 10 < used["megabytes"] < 1000
    assert _compare("no-such-commit", "--runs", 1, "--jobs", "help").returncode == 2
