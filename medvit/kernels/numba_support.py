"""Compilation and threads of the numba paths.

A kernel takes a range of jobs, and threads of our own run one range each. Numba's ``parallel=True`` would compile three
to four times as long in front of the user, and its thread pool may not be entered by two threads at once.

Machine code is kept in the user's cache folder (or in ``NUMBA_CACHE_DIR``), since an installation may be read-only. Its
folder is named by the versions of medvit, numba and Python, the processor and the sources of this room: numba alone
does not see a change in a function of another file. Within it, each signature of a kernel has a folder of its own, so
that processes that compile at once only ever replace a file by an equal one.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from llvmlite import binding
from numba import config, njit

from medvit._version import __version__
from medvit.user_folders import cache_folder

__all__ = ["JobKernel", "cached_njit", "job_kernel"]

_KEPT = 8
"""Number of folders of machine code that are kept: of other versions, and of other processors that share a home."""

_DECORATING = threading.Lock()
"""Lock around numba's setting of the cache folder, which holds for the whole process."""

_Signature = tuple[Any, ...]


def cached_njit(function: Callable[..., Any], signature: _Signature = (), **options: Any) -> Any:
    """Decorate a function with ``numba.njit``; keep its machine code on disk where a folder is writable.

    Args:
        function: the Python function.
        signature: types of the arguments, if the function is decorated for each signature.
        options: options of ``numba.njit``.
    """
    with _DECORATING:
        given = config.CACHE_DIR
        try:
            config.CACHE_DIR = str(_folder(*_environment()) / hashlib.sha256(repr(signature).encode()).hexdigest()[:12])
            return njit(cache=True, **options)(function)
        except RuntimeError:  # no folder is writable: each process compiles again
            return njit(**options)(function)
        finally:
            config.CACHE_DIR = given


def _environment() -> tuple[str | None, Path, str, str]:
    """Return what determines the folder: numba's own folder, the user's cache folder, name and features of the processor."""
    told = os.environ.get
    name = told("NUMBA_CPU_NAME") or binding.get_host_cpu_name()
    return told("NUMBA_CACHE_DIR"), cache_folder(), name, told("NUMBA_CPU_FEATURES") or _features()


@lru_cache(maxsize=4)
def _folder(given: str | None, cache: Path, processor: str, features: str) -> Path:
    """Return the folder of the machine code of this version on this processor; remove the oldest of the others."""
    stated = (__version__, numba.__version__, sys.version_info[:2], processor, features)
    digest = hashlib.sha256(repr(stated).encode())
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(file.read_bytes())
    base = Path(given) if given else cache / "numba"
    folder = base / f"{__version__}-{digest.hexdigest()[:16]}"
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        os.utime(folder)
        for old in sorted(base.iterdir(), key=lambda path: path.stat().st_mtime)[:-_KEPT]:
            shutil.rmtree(old, ignore_errors=True)
    return folder


@lru_cache(maxsize=1)
def _features() -> str:
    features: str = binding.get_host_cpu_features().flatten()
    return features


class JobKernel:
    """A numba function ``kernel(first, stop, *arguments)`` that runs the jobs from ``first`` to ``stop``.

    Jobs must not depend on each other: ``kernel(jobs, *arguments)`` runs all of them, in as many threads as torch is set
    to. It may be called from several threads at once.

    Args:
        function: the Python function.
        fastmath: permitted rewrites of floating-point arithmetic, see ``numba.njit``.
    """

    def __init__(self, function: Callable[..., None], fastmath: bool | set[str]) -> None:
        self.function = function
        # like parallel loops, divide without a check for zero, which keeps a loop from being vectorised
        self._options = {"fastmath": fastmath, "nogil": True, "error_model": "numpy"}
        self._compiled: dict[_Signature, Any] = {}
        self._lock = threading.Lock()

    def __call__(self, jobs: int, *arguments: Any) -> None:
        """Run all jobs; return when they are done."""
        signature = tuple(_type(argument) for argument in arguments)
        run = self._compiled.get(signature) or self._compile(signature, arguments)
        shares = max(1, min(torch.get_num_threads(), jobs))
        bounds = [jobs * n // shares for n in range(shares + 1)]
        others = [_threads().submit(run, *bounds[n : n + 2], *arguments) for n in range(1, shares)]
        try:
            run(*bounds[:2], *arguments)
        finally:
            for other in others:
                other.result()

    def _compile(self, signature: _Signature, arguments: tuple[Any, ...]) -> Any:
        """Compile for these arguments, or load the machine code; a cache that cannot be read or written is left out."""
        with self._lock:
            if signature in self._compiled:
                return self._compiled[signature]
            run = cached_njit(self.function, signature, **self._options)
            try:
                run(0, 0, *arguments)
            except numba.core.errors.NumbaError:
                raise
            except Exception:  # files of the cache are cut short, or the disk is full
                with suppress(Exception):
                    run._cache.flush()  # an empty index, so that the next process compiles and writes anew
                run = njit(**self._options)(self.function)
                run(0, 0, *arguments)
            self._compiled[signature] = run
            return run


def job_kernel(fastmath: bool | set[str] = True) -> Callable[[Callable[..., None]], JobKernel]:
    """Make a decorator that turns ``kernel(first, stop, *arguments)`` into a ``JobKernel``."""
    return lambda function: JobKernel(function, fastmath)


def _type(argument: Any) -> Any:
    """Return what numba distinguishes about an argument."""
    if not isinstance(argument, np.ndarray):
        return type(argument).__name__
    flags = argument.flags
    return argument.dtype.str, argument.ndim, flags.c_contiguous, flags.f_contiguous, flags.writeable, flags.aligned


@lru_cache(maxsize=1)
def _threads() -> ThreadPoolExecutor:
    """Return the threads of this process; each of them waits without using the processor."""
    return ThreadPoolExecutor(os.cpu_count() or 1, "medvit-kernel")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_threads.cache_clear)  # a fork has none of its parent's threads
