"""How long one action takes; the benchmarks call it for each side in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

__all__ = ["in_turn", "seconds"]


def seconds(action: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def in_turn(theirs: Callable[[], object], ours: Callable[[], object], runs: int) -> tuple[float, float, float]:
    """Median seconds of either side, run after one another, and the median of the ratios theirs / ours pair by pair."""
    pairs = [(seconds(theirs), seconds(ours)) for _ in range(runs)]
    a, b = (statistics.median(column) for column in zip(*pairs, strict=True))
    return a, b, statistics.median(x / y for x, y in pairs)
