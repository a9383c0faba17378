"""Import of OpenVINO without its usage telemetry.

OpenVINO reports its import and every conversion to a server, and writes a client number and a counter to the user's home,
unless a file there declines. Where the package ``openvino_telemetry`` is missing, it takes a stub of its own that does
nothing; here the package is hidden while OpenVINO is imported.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from threading import RLock
from typing import Any

__all__ = ["load_openvino", "openvino_core", "without_telemetry"]

_TELEMETRY = "openvino_telemetry"

_LOCK = RLock()


@contextmanager
def without_telemetry() -> Iterator[None]:
    """Hide the package that sends OpenVINO's usage telemetry while packages that would use it are imported."""
    with _LOCK:
        if _TELEMETRY in sys.modules:  # the process has imported it before; what it sends is its user's decision
            yield
            return
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # an import then fails
        try:
            yield
        finally:
            del sys.modules[_TELEMETRY]


def load_openvino() -> Any:
    """Import OpenVINO, with its telemetry off; nothing else in medvit imports it."""
    with without_telemetry():
        import openvino

        return openvino


def openvino_core() -> Any:
    """Return OpenVINO's engine, which is made once in a process and never ends.

    An engine gives the thread that makes it an alternate stack for signals, and frees this stack when the engine ends.
    If several engines end in another order than they were made, the thread keeps a stack that is freed, and the next
    signal with a handler (Ctrl+C, SIGTERM) ends the process with a segmentation fault.
    """
    with _LOCK:
        return _core()


@lru_cache(maxsize=1)
def _core() -> Any:
    return load_openvino().Core()
