"""ASGI middleware before every request: host and origin check, token, size limit."""

from __future__ import annotations

import hmac
import json
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from medvit_label.accounts import Accounts
from medvit_label.settings import ServerSettings, is_loopback

__all__ = ["AccessControl"]

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
_App = Callable[[MutableMapping[str, Any], _Receive, _Send], Awaitable[None]]

_OPEN = ("/", "/auth/", "/auth/token")
"""Paths that need no token: the page (it holds no data), the endpoint that tells if a token is needed, and the login."""

_log = logging.getLogger("medvit_label")


class _TooMuch(Exception):  # noqa: N818 - never leaves this module
    """Error for a body that exceeds the size limit."""


class AccessControl:
    """ASGI middleware that checks host, origin, token and size; it logs one line per request, without names.

    Args:
        app: application that it protects.
        settings: token, limits and address.
        accounts: accounts that may log in; None for a single token or no token.
    """

    def __init__(self, app: _App, settings: ServerSettings, accounts: Accounts | None = None) -> None:
        self._app, self._settings, self._accounts = app, settings, accounts
        self._limit = settings.limits.upload_mb * 2**20

    async def __call__(self, scope: MutableMapping[str, Any], receive: _Receive, send: _Send) -> None:
        """Forward a request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            _log.info("%s refused with %d", scope["method"], refusal[0])
            await _answer(send, *refusal)
            return
        await self._timed(scope, receive, send)

    def _refusal(self, scope: MutableMapping[str, Any], headers: dict[str, str]) -> tuple[int, str] | None:
        name = headers.get("host", "").rpartition("]")[0].lstrip("[") or headers.get("host", "").partition(":")[0]
        if is_loopback(self._settings.host) and not is_loopback(name):
            # a web page elsewhere can make its own host name resolve to this machine (DNS rebinding); Host shows that name
            return (
                403,
                "Found another host's name in the request; this server answers to this machine only. Use http://127.0.0.1.",
            )
        origin = headers.get("origin")
        if origin and origin not in self._settings.origins and origin.partition("//")[2] != headers.get("host"):
            return (
                403,
                "Found a web page of another origin asking. Start the server with --allow-origin and its address to let it.",
            )
        size = headers.get("content-length", "0")
        if not size.isdigit() or int(size) > self._limit:
            return (
                413,
                f"Found a request of more than {self._settings.limits.upload_mb} MB; that is all the server takes. See --upload-limit.",
            )
        if scope["path"] in _OPEN or scope["method"] == "OPTIONS":
            return None
        kind, _, token = headers.get("authorization", "").partition(" ")
        shown = token.strip() if kind.lower() == "bearer" else ""
        if self._accounts is not None:
            return self._login_refusal(scope, shown, self._accounts)
        if self._settings.token and not hmac.compare_digest(shown.encode(), self._settings.token.encode()):
            return (
                401,
                "Found no valid token; send 'Authorization: Bearer TOKEN' with the one the server was started with.",
            )
        return None

    def _login_refusal(self, scope: MutableMapping[str, Any], token: str, accounts: Accounts) -> tuple[int, str] | None:
        """Return status and message for a request without a valid login; otherwise give the account to the routes and
        return None.
        """
        account, expired = accounts.of_token(token)
        if account is not None:
            scope.setdefault("state", {})["account"] = account
            return None
        what = "a login that has expired" if expired else "no valid login"
        return 401, f"Found {what}; a name and password of this server are needed. Log in: POST /auth/token."

    async def _timed(self, scope: MutableMapping[str, Any], receive: _Receive, send: _Send) -> None:
        seen, status, started, begun = 0, 500, time.perf_counter(), False

        async def counted() -> _Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._limit:
                raise _TooMuch
            return message

        async def watched(message: _Message) -> None:
            nonlocal status, begun
            if seen > self._limit and not begun:
                return  # the application received an error; the answer below tells the client about the limit
            if message["type"] == "http.response.start":
                status, begun = message["status"], True
                message["headers"] = [
                    *message["headers"],
                    (b"x-content-type-options", b"nosniff"),
                    (b"cache-control", b"no-store"),
                ]
            await send(message)

        try:
            await self._app(scope, counted, watched)
        except _TooMuch:
            status = 413
        finally:
            if seen > self._limit and not begun:
                status = 413
                await _answer(
                    send,
                    413,
                    f"Found a request of more than {self._settings.limits.upload_mb} MB; that is all the server takes.",
                )
            # the route's pattern, never the path or query, which name images
            route = getattr(scope.get("route"), "path", "(no route)")
            _log.info("%s %s %d %.3f s", scope["method"], route, status, time.perf_counter() - started)


async def _answer(send: _Send, status: int, words: str) -> None:
    body = json.dumps({"detail": words}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
