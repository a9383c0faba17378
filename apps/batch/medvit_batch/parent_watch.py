"""Parent watch: child processes that end when their parent ends, even if it is killed."""

from __future__ import annotations

import ctypes
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading

__all__ = ["ENDED_WITH_PARENT", "end_with_parent", "follow_parent"]

ENDED_WITH_PARENT = 75
"""Exit code of a child whose parent has ended; a log may show it."""

_PR_SET_PDEATHSIG = 1


def follow_parent() -> None:
    """End this process when its parent ends; called first in a child started by multiprocessing.

    Linux kills the child at once, even while it runs native code. On other systems, or if the parent ended before this
    call, a thread waits for the pipe that multiprocessing keeps open to the parent. The parent of a forked worker is
    the fork server, which ends with the process that started it; the pipe leads to that process.
    """
    end_with_parent()
    threading.Thread(target=_watch, name="lifeline", daemon=True).start()


def end_with_parent() -> None:
    """Have Linux kill this process with its parent, and ignore SIGINT and SIGTERM.

    Ctrl-C and a service manager's SIGTERM reach the whole process group; only the parent may act on them.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _watch() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(ENDED_WITH_PARENT)
