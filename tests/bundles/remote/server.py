"""A web server on this machine that misbehaves on request, and says what it was asked."""

from __future__ import annotations

import contextlib
import hashlib
import random
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Fault = tuple[Any, ...]

CONTENT = random.Random(5).randbytes(700_001)
OTHER = random.Random(6).randbytes(700_001)
SHA256 = "sha256:" + hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Files by path; each request takes the next fault, or none when there is none left."""

    daemon_threads = True

    def __init__(self, certificate: tuple[Path, Path] | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.always: Fault = ("none",)
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.sent = 0
        self.release = threading.Event()
        self.scheme = "http"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True)
            self.scheme = "https"

    @property
    def base(self) -> str:
        name = "localhost" if self.scheme == "https" else "127.0.0.1"
        return f"{self.scheme}://{name}:{self.server_address[1]}"

    @property
    def ranges(self) -> list[str | None]:
        """The Range header of each request for a file."""
        return [headers.get("Range") for _, headers in self.asked]

    def handle_error(self, *_: Any) -> None:
        """A client that goes away is part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        server = self.server
        server.asked.append((self.path, dict(self.headers.items())))
        kind, *values = server.faults.pop(0) if server.faults else server.always
        body = server.files.get(self.path)
        if kind == "other":
            body = values[0]
        if kind == "status" or body is None:
            self._head(values[0] if kind == "status" else 404, {"Content-Length": "0"})
        elif kind == "redirect":
            self._head(302, {"Location": values[0], "Content-Length": "0"})
        elif kind == "page":
            self._head(200, {"Content-Type": "text/html; charset=utf-8", "Content-Length": "22"})
            self.wfile.write(b"<html>please log in</a>")
        elif kind == "silent":
            server.release.wait(10)
        elif kind == "reset":
            self.close_connection = True
        elif kind == "endless":
            self._head(200, {})
            with contextlib.suppress(OSError):
                while True:
                    self.wfile.write(bytes(1 << 16))
        else:
            self._file(body, kind, values)

    def _file(self, body: bytes, kind: str, values: list[Any]) -> None:
        tag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
        start, status, headers = 0, 200, {"ETag": tag}
        wanted = self.headers.get("Range")
        if kind == "no ranges":
            headers = {}
        elif wanted and self.headers.get("If-Range", tag) == tag:
            start, status = int(wanted.removeprefix("bytes=").rstrip("-")), 206
            if start >= len(body):
                self._head(416, {"Content-Range": f"bytes */{len(body)}", "Content-Length": "0"})
                return
            first = start + 1 if kind == "wrong range" else start
            headers["Content-Range"] = f"bytes {first}-{len(body) - 1}/{len(body)}"
        rest = body[start:]
        if kind == "said":  # announces more or less than there is, and sends what there is
            headers["Content-Length"] = str(max(1, len(rest) + values[0]))
        elif kind != "unsaid":
            headers["Content-Length"] = str(len(rest))
        self._head(status, headers)
        if kind in ("break", "no ranges", "stall") and values:
            rest = rest[: values[0]]
        self.server.sent += len(rest)  # before the client has it: a test reads this as soon as it does
        with contextlib.suppress(OSError):
            self.wfile.write(rest)
        if kind == "stall":
            self.server.release.wait(120)
        self.close_connection = True

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()


@contextlib.contextmanager
def serving(certificate: tuple[Path, Path] | None = None) -> Iterator[Server]:
    """A server in a thread, gone in the end."""
    server = Server(certificate)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.release.set()
        server.shutdown()
        server.server_close()
        thread.join()
