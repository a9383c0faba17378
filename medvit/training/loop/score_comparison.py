"""Comparison of scores before and after a run that starts from existing weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from medvit.atomic_write import replace_file

__all__ = ["before_after", "kept"]


def kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the content of a JSON file; if it is missing, compute and write it first, so that resumed runs reuse
    it."""
    if not path.is_file():
        made = make()
        with replace_file(path) as aside:
            aside.write_text(json.dumps(made))
    return dict(json.loads(path.read_text()))


def before_after(before: Mapping[str, float], after: Mapping[str, float]) -> str:
    """Format two sets of the same metrics as a Markdown table."""
    lines = ["| on the validation cases | before | after | change |", "|---|---|---|---|"]
    for name, value in before.items():
        lines.append(f"| {name} | {value:.4f} | {after[name]:.4f} | {after[name] - value:+.4f} |")
    return "\n".join(lines)
