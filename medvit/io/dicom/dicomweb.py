"""DICOMweb helpers shared by all commands: login, retries for a busy service, and messages for its refusals.

This module is not on the face of ``medvit.io``, whose import takes most of a second; commands that may not need it
import it directly. ``web_client`` imports ``requests`` and ``dicomweb_client`` (extras ``label`` and ``network``) on
first use.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvit.errors import SourceError

if TYPE_CHECKING:
    from dicomweb_client import DICOMwebClient
    from requests.adapters import HTTPAdapter

__all__ = ["Login", "names_a_password", "read_login", "status_of", "web_client", "web_words"]

_USER, _PASSWORD, _TOKEN = "MEDVIT_DICOMWEB_USER", "MEDVIT_DICOMWEB_PASSWORD", "MEDVIT_DICOMWEB_TOKEN"

_PAUSES_S = (0.2, 0.6, 1.8)
"""Seconds before the second, third and fourth attempt."""

_PASSING = frozenset({408, 429, 502, 503, 504})
"""HTTP statuses of a service that is busy or starting, after which a retry may succeed."""


@dataclass(frozen=True)
class Login:
    """Credentials for a DICOMweb service: a user with a password or, without a user, a bearer token."""

    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)

    def __bool__(self) -> bool:
        return bool(self.user or self.token)


def read_login(file: Path | None = None) -> Login:
    """Read the login from a file, else from the environment; never from the command line, which every process can read.

    Args:
        file: lines ``MEDVIT_DICOMWEB_USER=...`` and ``MEDVIT_DICOMWEB_PASSWORD=...``, or ``MEDVIT_DICOMWEB_TOKEN=...``.

    Raises:
        SourceError: the file cannot be read, or states no login.
    """
    if file is None:
        values: dict[str, str] = dict(os.environ)
    else:
        try:
            rows = [line.partition("=") for line in file.read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise SourceError(
                f"no readable login in {file} ({type(error).__name__})",
                "a text file is needed",
                "Check {file}.",
                option="file",
            ) from None
        values = {name.strip(): value.strip() for name, equals, value in rows if equals}
    login = Login(values.get(_USER, ""), values.get(_PASSWORD, ""), values.get(_TOKEN, ""))
    if file is not None and not login:
        raise SourceError(
            f"no login in {file}",
            f"lines {_USER}=... and {_PASSWORD}=..., or {_TOKEN}=..., are needed",
            "Correct the file.",
        )
    return login


def names_a_password(url: str) -> bool:
    """Return True if an address contains a user or password, which logs and process lists would show."""
    return "@" in url.partition("//")[2].partition("/")[0]


def web_client(url: str, timeout: float, login: Login | None = None) -> DICOMwebClient:
    """Create a DICOMweb client that logs in, and retries when the service is busy or the connection breaks.

    Args:
        url: address of the service.
        timeout: seconds to wait for an answer.
        login: the credentials; by default those of the environment.
    """
    import requests
    from dicomweb_client import DICOMwebClient

    login = read_login() if login is None else login
    session = requests.Session()
    if login.user:
        session.auth = (login.user, login.password)
    elif login.token:
        session.auth = lambda request: _with_token(request, login.token)
    session.mount("http://", _patient_adapter())
    session.mount("https://", _patient_adapter())
    client = DICOMwebClient(url.rstrip("/"), session=session, timeout=timeout)
    # the client's own retries raise other errors, and send an empty body the second time
    client.set_http_retry_params(retry=False)
    return client


def _with_token(request: Any, token: str) -> Any:
    request.headers["Authorization"] = f"Bearer {token}"
    return request


def _patient_adapter() -> HTTPAdapter:
    import requests
    from requests.adapters import HTTPAdapter

    class Patient(HTTPAdapter):  # type: ignore[misc]  # requests has no types
        """HTTP adapter that retries after temporary failures. Storing an object twice is safe, since it keeps its UID."""

        def send(self, request: Any, *args: Any, **more: Any) -> requests.Response:
            if request.body is not None and not isinstance(request.body, bytes | str):
                request.body = list(request.body)  # a large object comes as a generator, which can be sent once
            for pause in _PAUSES_S:
                try:
                    answer = super().send(request, *args, **more)
                    if answer.status_code not in _PASSING:
                        if not more.get("stream"):
                            _ = answer.content  # reads the body here, so that a broken transfer is retried too
                        return answer
                    answer.close()
                except (requests.Timeout, requests.exceptions.SSLError):
                    raise  # no answer in time, or a wrong certificate: waiting does not help
                except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
                    pass
                time.sleep(pause)
            return super().send(request, *args, **more)

    return Patient()


def status_of(error: Exception) -> int | None:
    """Return the HTTP status behind an error of ``web_client``; None where the service did not answer."""
    status: int | None = getattr(getattr(error, "response", None), "status_code", None)
    return status


def web_words(name: str, error: Exception, login: Login | None = None) -> str:
    """Describe an error of ``web_client`` for users, without revealing the login.

    Args:
        name: name of the service, without secrets.
        error: the exception.
        login: the login given to ``web_client``.
    """
    status = status_of(error)
    if status in (401, 403) and (read_login() if login is None else login):
        return (
            f"Found that {name} refuses the login (HTTP {status}); a user or token with the right to read and store is needed. "
            f"Check {_USER} and {_PASSWORD}, or {_TOKEN}."
        )
    if status in (401, 403):
        return f"Found that {name} wants a login (HTTP {status}); set {_USER} and {_PASSWORD}, or {_TOKEN}."
    kind = type(error).__name__
    silent = f"cannot be reached ({kind})" if isinstance(error, OSError) else f"gave what cannot be read ({kind})"
    what = f"answered HTTP {status}" if status else silent
    return f"Found that {name} {what}; a DICOMweb server is needed. Check its address."
