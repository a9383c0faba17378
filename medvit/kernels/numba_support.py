"""Compilation options and the lock shared by all numba paths; numba has one thread pool per process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from numba import config, njit, set_num_threads

__all__ = ["numba_jit", "numba_threads"]

_ONE_AT_A_TIME = threading.Lock()
"""Lock around parallel numba code: numba's workqueue threading layer aborts the process when two threads enter it at
once."""


def numba_jit(fastmath: bool | set[str] = True) -> Callable[[Any], Any]:
    """Make a decorator that compiles for parallel runs and caches the machine code on disk if a folder is writable."""

    def decorate(function: Any) -> Any:
        try:
            return njit(parallel=True, fastmath=fastmath, cache=True)(function)
        except RuntimeError:  # installation and home are read-only: each process compiles again
            return njit(parallel=True, fastmath=fastmath)(function)

    return decorate


@contextmanager
def numba_threads() -> Iterator[None]:
    """Hold the lock and use as many threads as torch is set to."""
    with _ONE_AT_A_TIME:
        threads = torch.get_num_threads()
        set_num_threads(max(1, min(threads, config.NUMBA_NUM_THREADS)))
        if (
            torch.get_num_threads() != threads
        ):  # numba's OpenMP layer sets OpenMP's own number, which torch reads, when it starts
            torch.set_num_threads(threads)
        yield
