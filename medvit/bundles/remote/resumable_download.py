"""Resumable download of a file over HTTP, kept only if it has the published checksum.

Range and conditional requests follow RFC 9110, sections 13.1.5 and 14.

medvit keeps this download beside pooch's because it resumes: pooch starts an interrupted download again from its first byte.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import shutil
import time
import urllib.error
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from medvit.bundles.remote.http import RetryableError, RetryPolicy, ask, describe_error
from medvit.bundles.store import os_errors_as_store_errors
from medvit.errors import ChecksumError, FetchError, StoreError
from medvit.progress import Progress
from medvit.user_folders import store_folder

__all__ = ["Remote", "check_digest", "digest", "download"]

_CHUNK = 1 << 18
_MOST = 8 << 30
"""Largest download in bytes where the publisher states no size, so that an endless response ends."""


@dataclass(frozen=True)
class Remote:
    """A published file.

    Attributes:
        address: http or https.
        checksum: "md5:..." or "sha256:..." in hexadecimal.
        size: bytes, where the publisher states them.
    """

    address: str
    checksum: str
    size: int | None = None

    @property
    def host(self) -> str:
        """Name of the server, for messages."""
        return urlsplit(self.address).hostname or self.address


def digest(path: Path, kind: str) -> str:
    """Compute the checksum of a file as ``kind:hexadecimal``; ``kind`` is md5 or sha256."""
    # some publishers state only md5, which detects accidents; address and TLS protect against attacks
    running = hashlib.new(kind, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            running.update(block)
    return f"{kind}:{running.hexdigest()}"


def check_digest(path: Path, checksum: str, source: str) -> None:
    """Refuse a file that differs from the published one.

    Raises:
        ChecksumError: the checksums differ; the message states both.
    """
    found = digest(path, checksum.partition(":")[0])
    if found != checksum:
        raise ChecksumError(
            f"a file with {found} at {source}, but {checksum} is published",
            "they must be equal",
            "It is damaged or another file: get it from another place.",
        )


class _Part:
    """A partial download, and the server's validator of its version."""

    def __init__(self, remote: Remote, path: Path) -> None:
        self.remote = remote
        self.path = path
        self.note = path.with_name(path.name + ".json")
        self.validator = self._read_validator()
        if self.have and self.validator is None:
            self.drop()

    @property
    def have(self) -> int:
        """Number of bytes received."""
        return self.path.stat().st_size if self.path.is_file() else 0

    def _read_validator(self) -> str | None:
        try:
            note = json.loads(self.note.read_text())
        except (OSError, ValueError):
            return None
        known = isinstance(note, dict) and note.get("address") == self.remote.address
        return str(note.get("validator", "")) if known else None

    def begin(self, validator: str) -> None:
        """Start the download over, and store the server's validator of this version of the file."""
        self.path.write_bytes(b"")
        self.note.write_text(json.dumps({"address": self.remote.address, "validator": validator}))
        self.validator = validator

    def drop(self) -> None:
        """Delete the partial download."""
        self.path.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)
        self.validator = None

    def request(self) -> dict[str, str]:
        """Return the headers that request the missing bytes."""
        if not self.have:
            return {}
        headers = {"Range": f"bytes={self.have}-"}
        # without a validator, a changed file fails its checksum and is fetched again from the start
        return headers | ({"If-Range": self.validator} if self.validator else {})


def download(remote: Remote, path: Path, progress: Progress, patience: RetryPolicy | None = None) -> Path:
    """Download a file to ``path``; resume an earlier attempt.

    Received data stays at ``path`` when the connection fails for good or the user cancels. A file that differs from the
    published one is deleted.

    Args:
        remote: address, checksum and, where stated, size.
        path: the file to write; a JSON note about its origin is kept beside it.
        progress: shows the kilobytes received; can cancel the download.
        patience: limits for retries.

    Returns:
        ``path``, with the published checksum.

    Raises:
        FetchError: the server cannot be reached, refuses, fails repeatedly, or sends something else.
        ChecksumError: a complete but different file was received.
        StoreError: there is no space or no permission.
    """
    patience = patience or RetryPolicy()
    with os_errors_as_store_errors():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = _Part(remote, path)
        resumed, idle, reason, best = bool(part.have), 0, "", part.have
        while idle < patience.tries:
            if part.have and _is_whole(part):
                return path
            try:
                _attempt(part, progress, patience)
                if _is_whole(part):
                    return path
                if not resumed:
                    _refuse_whole(part)
                # the earlier part may belong to another version of the file: try once more from the start
                part.drop()
                resumed, reason = False, "sent another file"
            except RetryableError as error:
                reason = str(error)
                resumed = resumed or part.have > 0
            # only bytes beyond the earlier maximum count as progress; otherwise the loop could run forever
            idle = 0 if part.have > best else idle + 1
            best = max(best, part.have)
            if 0 < idle < patience.tries:
                progress.check()
                time.sleep(patience.wait_s * 2 ** (idle - 1))
        raise FetchError(
            f"that {remote.host} {reason}",
            f"{part.have} bytes have arrived and are kept",
            (
                "Start the same command again to go on from there, set MEDVIT_MIRROR to another place, or give the file "
                "with {given=...}."
            ),
            option="given",
        )


def _is_whole(part: _Part) -> bool:
    if part.remote.size is not None and part.have != part.remote.size:
        return False
    return digest(part.path, part.remote.checksum.partition(":")[0]) == part.remote.checksum


def _refuse_whole(part: _Part) -> None:
    try:
        check_digest(part.path, part.remote.checksum, part.remote.address)
    finally:
        part.drop()


def _attempt(part: _Part, progress: Progress, patience: RetryPolicy) -> None:
    """Make one connection; return when the server has sent all announced bytes."""
    remote = part.remote
    try:
        response = ask(remote.address, part.request(), patience.timeout_s)
    except urllib.error.HTTPError as error:  # 416: no bytes follow, so the part is of another file
        part.drop()
        raise RetryableError("has a shorter file than before") from error
    with response:
        total = _accept(part, response)
        with part.path.open("ab") as file:
            have = part.have
            while have < total:
                progress.report("fetch", have >> 10, (total if total < _MOST else have + _CHUNK) >> 10)
                try:
                    block = response.read(min(_CHUNK, total - have))
                except (OSError, http.client.HTTPException) as error:
                    raise RetryableError(f"broke off ({describe_error(error)})") from error
                if not block:
                    break
                file.write(block)
                have += len(block)
    if total == _MOST and have == _MOST:
        part.drop()
        raise FetchError(
            f"more than {_MOST >> 30} GiB at {remote.host} and no end", "no bundle is as large", "Report it."
        )
    if have < total and total < _MOST:
        raise RetryableError("broke off")
    if remote.size is not None and have < remote.size:
        raise RetryableError("announced and sent less than the published size")


def _accept(part: _Part, response: http.client.HTTPResponse) -> int:
    """Check the headers of a response; return the announced size of the whole file, or ``_MOST`` if not announced."""
    remote, headers = part.remote, response.headers
    if headers.get_content_type() in ("text/html", "application/xhtml+xml"):
        raise FetchError(
            f"a web page at {remote.host} where a file is published",
            "it is likely a login or an error page",
            "Open the address in a browser, save the file and give it with {given=...}.",
            option="given",
        )
    length = headers.get("Content-Length", "")
    announced = int(length) if length.isdigit() else None
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", "").strip())
    if response.status == 206:
        if not found or int(found[1]) != part.have:
            part.drop()
            raise RetryableError("sent another range than asked for")
    else:
        # the server does not support ranges, or the file has changed: start from the beginning
        part.begin(_validator(headers))
    total = part.have + announced if announced is not None else None
    if remote.size is not None:
        if total is not None and total > remote.size:
            part.drop()
            raise FetchError(
                f"a file of {total} bytes at {remote.host}, but {remote.size} bytes are published",
                "it is another file",
                "Set MEDVIT_MIRROR to a place that has the right one, or give the file with {given=...}.",
                option="given",
            )
        total = remote.size
    _require_space((total or 0) - part.have)
    return total if total is not None else _MOST


def _validator(headers: Any) -> str:
    """Return a validator for If-Range: a strong entity tag, else the date of the last change."""
    tag = headers.get("ETag", "")
    return str(tag if tag.startswith('"') else headers.get("Last-Modified", ""))


def _require_space(needed: int) -> None:
    # space for the file and for its converted copy
    free = shutil.disk_usage(store_folder()).free
    if 2 * needed > free:
        raise StoreError(
            f"{free >> 20} MiB free for the bundle store {store_folder()}",
            f"about {2 * needed >> 20} MiB are needed",
            "Free some space, or set MEDVIT_HOME to another disk.",
        )
