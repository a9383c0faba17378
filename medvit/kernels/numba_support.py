"""What every numba path shares: one way to compile, and one lock, since numba's threads are one pool per process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from numba import config, njit, set_num_threads

__all__ = ["numba_jit", "numba_threads"]

_ONE_AT_A_TIME = threading.Lock()
"""Numba's plainest threading layer aborts the process when two threads enter it at once (a label server's would)."""


def numba_jit(fastmath: bool | set[str] = True) -> Callable[[Any], Any]:
    """Compile for parallel runs and keep the machine code between processes where some folder can be written."""

    def decorate(function: Any) -> Any:
        try:
            return njit(parallel=True, fastmath=fastmath, cache=True)(function)
        except RuntimeError:  # read-only installation and home: compiled anew in each process
            return njit(parallel=True, fastmath=fastmath)(function)

    return decorate


@contextmanager
def numba_threads() -> Iterator[None]:
    """Run alone, on as many threads as torch was told to use."""
    with _ONE_AT_A_TIME:
        set_num_threads(max(1, min(torch.get_num_threads(), config.NUMBA_NUM_THREADS)))
        yield
