"""Number of windows that a graph computes at once, each on a part of the cores (streams of OpenVINO).

Which number is fastest depends on the network and on the machine. It is measured once for each graph, machine and
number of threads, and kept in the cache beside the graph.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medvit.inference.backends.cache import get_or_build
from medvit.io import memory_limit

__all__ = ["fastest_streams"]

_THREADS_EACH = 2
"""Smallest number of threads of a stream; with fewer than twice as many threads, one window runs at a time."""

_MOST = 16
"""Largest number of streams."""

_WORTH = 1.05
"""Smallest speed-up over half as many streams for which the memory of more streams is spent."""

_ROUNDS = 2
"""Number of timed calls for each number of streams; the fastest counts."""

Run = Callable[[Tensor], Tensor]

_CHOSEN: dict[str, int] = {}


def fastest_streams(graph: str, threads: int, compiled: Callable[[int], Run], shape: Sequence[int]) -> int:
    """Return the number of windows at once that gives the most windows a second, as measured once on this machine.

    Args:
        graph: name of the graph in the cache, with the precision.
        threads: number of threads that the streams share.
        compiled: function that compiles the graph for a number of streams.
        shape: (1, channel, *roi), the size of a window.

    Raises:
        BackendError: the cache cannot be written.
    """
    if threads < 2 * _THREADS_EACH:
        return 1
    machine = (platform.node(), platform.machine(), platform.processor(), os.cpu_count(), threads)
    key = f"{graph}-{hashlib.sha256(repr(machine).encode()).hexdigest()[:16]}"
    if key not in _CHOSEN:
        _, facts = get_or_build("openvino", key, lambda folder: _measured(threads, compiled, shape, folder))
        _CHOSEN[key] = int(facts["streams"])
    return _CHOSEN[key]


def _measured(threads: int, compiled: Callable[[int], Run], shape: Sequence[int], folder: Path) -> dict[str, Any]:
    """Time one, two, four ... streams until more are not faster or take too much memory; write the times."""
    before, chosen, streams = _resident(), 1, 1
    taken: dict[int, float] = {}
    while streams <= min(_MOST, threads // _THREADS_EACH):
        taken[streams] = _seconds_a_window(compiled(streams), streams, shape)
        if streams > 1 and taken[chosen] < _WORTH * taken[streams]:
            break
        chosen, streams = streams, 2 * streams
        if (_resident() - before) * 2 > memory_limit():
            break
    facts = {"streams": chosen, "threads": threads, "seconds_a_window": {str(n): s for n, s in taken.items()}}
    (folder / "streams.json").write_text(json.dumps(facts, indent=2))
    return facts


def _seconds_a_window(run: Run, streams: int, shape: Sequence[int]) -> float:
    windows = torch.rand((streams, *shape[1:]), generator=torch.Generator().manual_seed(0))
    run(windows)  # memory is allocated in the first call
    taken = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        run(windows)
        taken.append(time.perf_counter() - start)
    return min(taken) / streams


def _resident() -> int:
    """Return the resident memory of this process in bytes; 0 where the system does not state it."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
