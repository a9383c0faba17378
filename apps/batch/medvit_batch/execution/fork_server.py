"""Start of worker processes: forked from a server with torch and MONAI loaded or, on other systems than Linux, spawned.

A forked worker is ready at once; a spawned one loads the libraries itself. The fork server ends with its parent, and
its workers end with it. It keeps the environment and the numbers of threads it was started with. A worker that needs
others is spawned; so is a worker for which the server cannot be started or does not answer.
"""

from __future__ import annotations

import multiprocessing.forkserver
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from medvit_batch.execution.environment import restored_environment

__all__ = ["IN_FORK_SERVER", "THREAD_VARIABLES", "fork_server_is_usable", "start_process"]

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
"""Environment variables from which libraries take their number of threads at import."""

IN_FORK_SERVER = "MEDVIT_BATCH_FORK_SERVER"
"""Environment variable that is set only in the fork server."""

_PRELOAD = "medvit_batch.execution.fork_server_preload"

_ANSWER = 120.0
"""Seconds that the server may take to load the libraries, on a busy machine with a cold disk."""

_FAILURES = 2
"""Times that the server may fail to answer (it may have been killed) before workers are only spawned."""

_VOLATILE = ("PYTEST_CURRENT_TEST",)

_started_with: dict[str, str] | None = None
"""The environment with which the fork server of this process was started."""

_failures = 0


def fork_server_is_usable() -> bool:
    """Return whether workers can be forked on this system: on Linux, whose kernel ends the server with its parent."""
    return sys.platform == "linux" and "forkserver" in multiprocessing.get_all_start_methods()


def start_process(
    target: Callable[..., None], arguments: tuple[object, ...], threads: int
) -> tuple[BaseProcess, Connection]:
    """Start a worker process; return it and the pipe to it.

    Args:
        target: its main function, which takes the other end of the pipe first.
        arguments: further arguments of that function.
        threads: number of threads for its libraries.
    """
    global _failures
    for method in ("forkserver", "spawn") if _runs(threads) else ("spawn",):
        context = get_context(method)
        ours, theirs = multiprocessing.Pipe()
        # multiprocessing's stubs give each context a process class of its own
        process: BaseProcess = context.Process(  # type: ignore[attr-defined]
            target=target, args=(theirs, *arguments), name="medvit-batch-worker", daemon=True
        )
        if method == "spawn":
            process.start()
        elif not _answers(process):
            _failures += 1
            ours.close()  # a worker that starts late finds the pipe closed and ends
            theirs.close()
            continue
        theirs.close()
        return process, ours
    raise AssertionError("spawn always starts or raises")


def _runs(threads: int) -> bool:
    """Start the fork server if needed; return True if it can serve workers of this environment."""
    global _started_with, _failures
    if _failures >= _FAILURES or not fork_server_is_usable():
        return False
    needed = {k: v for k, v in os.environ.items() if k not in _VOLATILE} | dict.fromkeys(THREAD_VARIABLES, str(threads))
    if _started_with is not None and _started_with != needed:
        return False
    get_context("forkserver").set_forkserver_preload([_PRELOAD])
    # the server must find modules as this process does, and not in the user's current folder
    path = os.pathsep.join(folder for folder in sys.path if folder)
    try:
        with restored_environment():
            os.environ.update({**needed, "PYTHONPATH": path, "PYTHONSAFEPATH": "1", IN_FORK_SERVER: "1"})
            multiprocessing.forkserver.ensure_running()
    except OSError:  # for example, the path of its socket is too long
        _failures = _FAILURES
        return False
    _started_with = needed
    return True


def _answers(process: BaseProcess) -> bool:
    """Have the fork server start a process; return True if it did.

    A thread waits for the server, which may still be loading, so that the calling thread can handle signals and give
    up.
    """
    started: Future[None] = Future()

    def start() -> None:
        try:
            process.start()
        except BaseException as error:
            started.set_exception(error)
        else:
            started.set_result(None)

    threading.Thread(target=start, name="medvit-worker-start", daemon=True).start()
    try:
        started.result(_ANSWER)
    except (OSError, EOFError):
        return False
    return True
