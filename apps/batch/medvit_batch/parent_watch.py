"""Children that end with their parent, however it ends."""

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
"""Exit code of a child that saw its parent gone; nobody is there to read it, but a log may show it."""

_PR_SET_PDEATHSIG = 1


def follow_parent() -> None:
    """End this process with its parent; called first in a child made by multiprocessing.

    Linux kills the child in the moment its parent is gone, even while it is stuck in native code. Elsewhere, and where the
    kernel's promise came too late, a thread waits for the pipe that multiprocessing keeps open from the parent to break. The parent of
    a forked worker is the fork server, which ends with the process that started it; the pipe is from that process.
    """
    end_with_parent()
    threading.Thread(target=_watch, name="lifeline", daemon=True).start()


def end_with_parent() -> None:
    """Have Linux kill this process with its parent, and leave signals to the group to the parent.

    Ctrl-C and a service manager's SIGTERM reach a whole group; children leave it to the parent what is to be done.
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
