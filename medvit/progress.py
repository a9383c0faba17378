"""Progress and cancellation of a run: one object passed to all stages and checked between windows, slices and files."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from medvit.errors import MedvitError

__all__ = ["Cancelled", "Progress"]


class Cancelled(MedvitError, RuntimeError):  # noqa: N818 - a decision of the user, not an error
    """Exception for a run that the user cancelled; nothing was written."""


class Progress:
    """Progress of a run, with its durations and a way to cancel it.

    Args:
        show: called as ``show(stage, done, total)`` from the running thread, to display the progress.
        announce: called with a line for the user from the running thread, before work that takes long once.

    Attributes:
        seconds: duration of each stage, by name.

    Examples:
        >>> from medvit import Progress
        >>> shown = []
        >>> progress = Progress(lambda stage, done, total: shown.append((stage, done, total)))
        >>> with progress.stage("read"):
        ...     progress.report("read", 5, 10)
        >>> shown
        [('read', 0, 1), ('read', 5, 10), ('read', 1, 1)]
    """

    def __init__(
        self, show: Callable[[str, int, int], None] | None = None, announce: Callable[[str], None] | None = None
    ) -> None:
        self._show = show
        self._announce = announce
        self._stop = threading.Event()
        self.seconds: dict[str, float] = {}

    def cancel(self) -> None:
        """Request that the run stops at the next window, slice or file; safe from any thread."""
        self._stop.set()

    def child(self) -> Progress:
        """Create a progress for one of many cases: displayed and cancelled with this one, with its own durations."""
        other = Progress(self._show, self._announce)
        other._stop = self._stop
        return other

    def check(self) -> None:
        """Raise ``Cancelled`` if cancellation was requested."""
        if self._stop.is_set():
            raise Cancelled("The run was cancelled; nothing was written. Start it again when wanted.")

    def report(self, stage: str, done: int, total: int) -> None:
        """Display the progress of a stage; raise ``Cancelled`` if cancellation was requested."""
        self.check()
        if self._show is not None:
            self._show(stage, done, total)

    def announce(self, text: str) -> None:
        """Display a line for the user, such as why the next stage takes long and for how long."""
        if self._announce is not None:
            self._announce(text)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure the duration of a stage; repeated stages of one name are added up."""
        self.report(name, 0, 1)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        self.report(name, 1, 1)
