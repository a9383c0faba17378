"""Timing of actions for benchmarks that run both sides in turn, and output of the long ones."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["in_turn", "seconds", "tell"]


def seconds(action: Callable[[], object]) -> float:
    """Return the wall-clock seconds of one call."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def in_turn(theirs: Callable[[], object], ours: Callable[[], object], runs: int) -> tuple[float, float, float]:
    """Run both sides in turn; return the median seconds of each, and the median of the paired ratios theirs / ours."""
    pairs = [(seconds(theirs), seconds(ours)) for _ in range(runs)]
    a, b = (statistics.median(column) for column in zip(*pairs, strict=True))
    return a, b, statistics.median(x / y for x, y in pairs)


def tell(measure: Callable[[], dict[str, Any]], table: Callable[[dict[str, Any]], str], output: Path | None) -> None:
    """Measure on one thread, print the table and the minutes, write all numbers as JSON if requested."""
    import torch

    torch.set_num_threads(1)
    started = time.perf_counter()
    found = measure()
    print(table(found))
    print(f"{(time.perf_counter() - started) / 60:.1f} minutes, one thread")
    if output:
        output.write_text(json.dumps(found, indent=1) + "\n")
