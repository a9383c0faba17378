"""HTTP exchange that can be cancelled at any time, even while the server is silent. It needs no Qt."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from dataclasses import dataclass, field
from typing import Any
from urllib.error import URLError
from urllib.request import HTTPHandler, HTTPSHandler, Request, build_opener

from medvit.progress import Cancelled, Progress

__all__ = ["Answer", "BrokenOffError", "exchange"]

_CHUNK = 2**20
_LOOK_S = 0.1
"""Seconds between checks for a cancel."""


@dataclass(frozen=True)
class Answer:
    """Answer of a server: content and file name."""

    content: bytes
    name: str


class BrokenOffError(OSError):
    """Error for a connection that broke in the middle of an answer."""


@dataclass(eq=False)
class _Line:
    """A running exchange, with the sockets by which another thread can end it."""

    sockets: list[socket.socket] = field(default_factory=list)
    answer: Answer | None = None
    error: BaseException | None = None

    def cut(self) -> None:
        """End the exchange: close its sockets, so that its thread gets an error at once."""
        for line in self.sockets:
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)


def exchange(request: Request, seconds: float, progress: Progress) -> Answer:
    """Send a request and return its answer.

    Args:
        request: as ``urllib`` takes it.
        seconds: seconds of silence after which the server counts as lost.
        progress: receives the number of bytes, and can cancel the exchange.

    Raises:
        HTTPError: the server refuses. OSError, HTTPException: it is not reachable, or the connection broke. Cancelled:
            by the user.
    """
    line = _Line()
    thread = threading.Thread(target=_run, args=(line, request, seconds, progress), daemon=True, name="medvit-server")
    thread.start()
    while thread.is_alive():
        try:
            progress.check()
        except Cancelled:
            line.cut()
            raise
        thread.join(_LOOK_S)
    if line.error is not None:
        raise line.error
    assert line.answer is not None
    return line.answer


def _run(line: _Line, request: Request, seconds: float, progress: Progress) -> None:
    try:
        line.answer = _received(line, request, seconds, progress)
    except BaseException as error:  # an error in a thread would be lost
        line.error = error


def _received(line: _Line, request: Request, seconds: float, progress: Progress) -> Answer:
    opener = build_opener(_remembering(HTTPHandler, line), _remembering(HTTPSHandler, line))
    with opener.open(request, timeout=seconds) as answer:
        size, parts, there = _length(answer.headers), [], 0
        while part := answer.read(_CHUNK):
            parts.append(part)
            there += len(part)
            progress.report("receiving", min(there, size), max(size, 1))
        if there < size:
            raise BrokenOffError(f"its answer broke off after {there} of {size} bytes")
        return Answer(b"".join(parts), answer.headers.get_filename() or "")


def _length(headers: Any) -> int:
    try:
        return max(0, int(headers.get("Content-Length") or 0))
    except ValueError:
        raise URLError("its answer states no length that is a number") from None


def _remembering(kind: type[Any], line: _Line) -> Any:
    """Return a handler for urllib that records its sockets, so that the exchange can be ended."""

    class Remembering(kind):  # type: ignore[misc]
        def do_open(self, make: Any, request: Any, **given: Any) -> Any:
            def remembered(*args: Any, **more: Any) -> Any:
                connection: http.client.HTTPConnection = make(*args, **more)
                connect = connection.connect

                def connected() -> None:
                    connect()
                    line.sockets.append(connection.sock)  # the connection drops its reference once the answer begins

                connection.connect = connected  # type: ignore[method-assign]
                return connection

            return super().do_open(remembered, request, **given)

    return Remembering()
