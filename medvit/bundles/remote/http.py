"""HTTP requests: final errors, errors worth a retry, and no schemes other than http and https.

Only the standard library is used; proxies and certificates are those of the environment.
"""

from __future__ import annotations

import http.client
import ssl
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from medvit._version import __version__
from medvit.errors import FetchError, MedvitError

__all__ = ["RetryPolicy", "RetryableError", "ask", "describe_error", "read_small"]

_SMALL = 64 << 10
"""Largest size of a checksum file, in bytes."""

_FINAL = {
    401: "asks for a login",
    403: "refuses access",
    404: "has no such file",
    407: "lies behind a proxy that asks for a login",
    410: "has no such file any more",
}
"""HTTP statuses after which a retry is pointless."""


@dataclass(frozen=True)
class RetryPolicy:
    """Limits for retries.

    Attributes:
        tries: number of consecutive connections without new data before giving up.
        wait_s: seconds before the second attempt, doubled for each further one.
        timeout_s: seconds without data after which a connection counts as broken.
    """

    tries: int = 4
    wait_s: float = 1.0
    timeout_s: float = 30.0


class RetryableError(Exception):
    """A connection that delivered less than the whole file; a retry may deliver the rest."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Handler that follows redirects within http and https, but never from https to http."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        """Return the request that follows the redirect; refuse an unsafe one."""
        before, after = urlsplit(req.full_url), urlsplit(newurl)
        if after.scheme not in ("http", "https") or (before.scheme, after.scheme) == ("https", "http"):
            raise FetchError(
                f"a redirect of {before.hostname} from {before.scheme} to {after.scheme}",
                "only http and https are followed, and never from https to http",
                "Report it to who runs the server, or give the file with {given=...}.",
                option="given",
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def ask(address: str, headers: dict[str, str], timeout_s: float) -> http.client.HTTPResponse:
    """Send one GET request.

    Raises:
        RetryableError: a retry may succeed.
        FetchError: a retry is pointless.
        HTTPError: status 416, the requested range does not exist.
    """
    # only these handlers: no file:, ftp: or data: addresses, not even by redirect; proxies from the environment
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    request = urllib.request.Request(address, headers={"User-Agent": f"medvit/{__version__}", **headers})
    try:
        response: http.client.HTTPResponse = opener.open(request, timeout=timeout_s)
    except MedvitError:
        raise
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:
            raise
        _refuse(urlsplit(address).hostname or address, error.code)
        raise RetryableError(f"answered {error.code}") from error
    except urllib.error.URLError as error:
        reason = error.reason
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise FetchError(
                f"a certificate of {urlsplit(address).hostname} that cannot be trusted ({reason.verify_message})",
                "a trusted certificate is needed",
                "Name your institution's certificates in SSL_CERT_FILE, or give the file with {given=...}.",
                option="given",
            ) from error
        raise RetryableError(f"could not be reached ({describe_error(reason)})") from error
    except (OSError, http.client.HTTPException) as error:
        raise RetryableError(f"broke off ({describe_error(error)})") from error
    return response


def _refuse(host: str, code: int) -> None:
    if 300 <= code < 400:  # a circular redirect, or one to no web address
        raise FetchError(
            f"a redirect of {host} that cannot be followed (HTTP {code})",
            "it must end at a file on the web",
            "Report it to who runs the server, or give the file with {given=...}.",
            option="given",
        )
    if code in _FINAL:
        raise FetchError(
            f"that {host} {_FINAL[code]} (HTTP {code})",
            "the file must be there to be fetched",
            "Set MEDVIT_MIRROR to a place that has it, or give the file with {given=...}.",
            option="given",
        )


def describe_error(error: object) -> str:
    """Return a short description of a system error."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(getattr(error, "strerror", None) or error or type(error).__name__)


def read_small(address: str, patience: RetryPolicy) -> bytes:
    """Read a file of a few bytes, such as a checksum.

    Raises:
        FetchError: the file is not available, or much larger than a checksum.
    """
    for number in range(patience.tries):
        try:
            with ask(address, {}, patience.timeout_s) as response:
                content = response.read(_SMALL + 1)
        except RetryableError as error:
            reason = str(error)
        except MedvitError:
            raise
        except (OSError, http.client.HTTPException) as error:
            reason = f"broke off ({describe_error(error)})"
        else:
            if len(content) > _SMALL:
                raise FetchError(
                    f"more than {_SMALL} bytes at {address}, where a checksum is needed", remedy="Correct the mirror."
                )
            return content
        time.sleep(patience.wait_s * 2**number)
    raise FetchError(
        f"that {urlsplit(address).hostname} {reason}",
        "a connection is needed",
        "Try again, set MEDVIT_MIRROR to another place, or give the file with {given=...}.",
        option="given",
    )
