"""One HTTP exchange that can be cancelled at any moment, also while a server says nothing. No Qt in here."""

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
"""Seconds between looks at whether the exchange is still wanted."""


@dataclass(frozen=True)
class Answer:
    """What a server sent: its content, and the file name it gave."""

    content: bytes
    name: str


class BrokenOffError(OSError):
    """The server went away in the middle of its answer."""


@dataclass(eq=False)
class _Line:
    """An exchange under way in a thread, and what can end it from another."""

    sockets: list[socket.socket] = field(default_factory=list)
    answer: Answer | None = None
    error: BaseException | None = None

    def cut(self) -> None:
        """End it: whoever reads from the line gets an error at once."""
        for line in self.sockets:
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)


def exchange(request: Request, seconds: float, progress: Progress) -> Answer:
    """Send a request and receive its answer; told how much has come, and cancelled, by ``progress``.

    Args:
        request: as ``urllib`` takes it.
        seconds: of silence after which the server counts as gone.
        progress: told of what arrives.

    Raises:
        HTTPError: the server refuses. OSError, HTTPException: it cannot be reached, or went away. Cancelled: by a person.
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
    except BaseException as error:  # a thread has nowhere to raise to
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
    """A handler of urllib's whose sockets the line can cut."""

    class Remembering(kind):  # type: ignore[misc]
        def do_open(self, make: Any, request: Any, **given: Any) -> Any:
            def remembered(*args: Any, **more: Any) -> Any:
                connection: http.client.HTTPConnection = make(*args, **more)
                connect = connection.connect

                def connected() -> None:
                    connect()
                    line.sockets.append(connection.sock)  # the connection forgets it once the answer begins

                connection.connect = connected  # type: ignore[method-assign]
                return connection

            return super().do_open(remembered, request, **given)

    return Remembering()
