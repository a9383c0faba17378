"""Shutdown of a run: the first signal lets running cases finish, the second ends them at once."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

__all__ = ["SIGNAL", "Stop"]

SIGNAL = "signal"
"""Reason that ends the whole run, while others only stop the start of new cases."""


@dataclass
class Stop:
    """State of a request to stop a run.

    Attributes:
        grace: seconds that running cases get to finish.
        say: prints a sentence for the user.
        reason: reason for stopping; empty while the run goes on.
        until: time by ``time.monotonic`` at which even running cases are ended.
    """

    grace: float
    say: Callable[[str], None]
    reason: str = ""
    until: float = float("inf")

    def ask(self, reason: str) -> None:
        """Start no more cases; running ones may finish. A signal replaces any other reason."""
        if not self.reason or (reason == SIGNAL and self.reason != SIGNAL):
            self.reason, self.until = reason, time.monotonic() + self.grace

    def go_on(self) -> None:
        """Allow the start of cases again, unless a signal asked for the end."""
        if self.reason != SIGNAL:
            self.reason, self.until = "", float("inf")

    @property
    def ended(self) -> bool:
        """True once a signal asked for the end."""
        return self.reason == SIGNAL

    @property
    def asked(self) -> bool:
        """True if no more cases are to be started."""
        return bool(self.reason)

    @property
    def now(self) -> bool:
        """True if running cases are to be ended as well."""
        return time.monotonic() >= self.until

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Handle SIGTERM and Ctrl-C as requests to stop, in place of ending the process."""

        def asked(number: int, _: Any) -> None:
            if self.ended:
                self.until = 0.0
                return
            self.ask(SIGNAL)
            self.say(f"Stopping: running cases may finish within {self.grace:.0f} s; repeat to end them now.")

        previous = {number: signal.signal(number, asked) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
