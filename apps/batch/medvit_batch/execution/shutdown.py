"""Stopping a run: the first signal lets the cases at work finish, the second ends them where they are."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

__all__ = ["SIGNAL", "Stop"]

SIGNAL = "signal"
"""The reason for which everything ends, and not only the starting of cases."""


@dataclass
class Stop:
    """Whether and how a run is to stop.

    Attributes:
        grace: seconds that cases at work are given to finish.
        say: tells a person.
        reason: why it stops; empty while it goes on.
        until: when even the cases at work are ended, by ``time.monotonic``.
    """

    grace: float
    say: Callable[[str], None]
    reason: str = ""
    until: float = float("inf")

    def ask(self, reason: str) -> None:
        """Start no more cases; those at work may finish. A signal counts for more than any other reason."""
        if not self.reason or (reason == SIGNAL and self.reason != SIGNAL):
            self.reason, self.until = reason, time.monotonic() + self.grace

    def go_on(self) -> None:
        """Start cases again, unless a signal ended that."""
        if self.reason != SIGNAL:
            self.reason, self.until = "", float("inf")

    @property
    def ended(self) -> bool:
        """True once a signal asked for the end."""
        return self.reason == SIGNAL

    @property
    def asked(self) -> bool:
        """Whether no more cases are to be started."""
        return bool(self.reason)

    @property
    def now(self) -> bool:
        """Whether cases at work are to be ended as well."""
        return time.monotonic() >= self.until

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """SIGTERM and Ctrl-C stop the run instead of ending the process."""

        def asked(number: int, _: Any) -> None:
            if self.ended:
                self.until = 0.0
                return
            self.ask(SIGNAL)
            self.say(f"Stopping: cases at work may finish within {self.grace:.0f} s; once more to end them now.")

        previous = {number: signal.signal(number, asked) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
