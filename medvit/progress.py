"""Progress and cancel: one object passed down the path and honoured between windows."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from medvit.errors import MedvitError

__all__ = ["Cancelled", "Progress"]


class Cancelled(MedvitError, RuntimeError):  # noqa: N818 - a decision of the user, not an error
    """The run was cancelled; nothing was written."""


class Progress:
    """Collects where a run stands and whether it should go on.

    Args:
        show: called as ``show(stage, done, total)`` from the running thread; doors draw it their own way.
    """

    def __init__(self, show: Callable[[str, int, int], None] | None = None) -> None:
        self._show = show
        self._stop = threading.Event()
        self.seconds: dict[str, float] = {}

    def cancel(self) -> None:
        """Ask the run to stop at the next window, slice or file; safe from any thread."""
        self._stop.set()

    def child(self) -> Progress:
        """Another progress for one case of many: shown and cancelled with this one, its seconds its own."""
        other = Progress(self._show)
        other._stop = self._stop
        return other

    def check(self) -> None:
        """Raise ``Cancelled`` if the run was asked to stop."""
        if self._stop.is_set():
            raise Cancelled("The run was cancelled; nothing was written. Start it again when wanted.")

    def report(self, stage: str, done: int, total: int) -> None:
        """Say how far a stage is; also a point where cancelling takes effect."""
        self.check()
        if self._show is not None:
            self._show(stage, done, total)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage; its seconds are added up under its name."""
        self.report(name, 0, 1)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        self.report(name, 1, 1)
