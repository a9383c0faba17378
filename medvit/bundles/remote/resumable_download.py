"""A file over HTTP, resumed where it broke off, and kept only if its checksum is the published one.

Range and conditional requests follow RFC 9110, sections 13.1.5 and 14.
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
from medvit.bundles.store import os_errors_as_store_errors, store_folder
from medvit.errors import ChecksumError, FetchError, StoreError
from medvit.progress import Progress

__all__ = ["Remote", "check_digest", "digest", "download"]

_CHUNK = 1 << 18
_MOST = 8 << 30
"""Bytes taken where the publisher states no size: an endless answer must end somewhere."""


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
        """The server, for messages."""
        return urlsplit(self.address).hostname or self.address


def digest(path: Path, kind: str) -> str:
    """``kind:hexadecimal`` of a file; kind is md5 or sha256."""
    # md5 is what some publishers give; it guards against accidents, and the address and TLS against people
    running = hashlib.new(kind, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            running.update(block)
    return f"{kind}:{running.hexdigest()}"


def check_digest(path: Path, checksum: str, source: str) -> None:
    """Refuse a file that is not the published one.

    Raises:
        ChecksumError: with both checksums.
    """
    found = digest(path, checksum.partition(":")[0])
    if found != checksum:
        raise ChecksumError(
            f"a file with {found} at {source}, but {checksum} is published",
            "they must be equal",
            "It is damaged or another file: get it from another place.",
        )


class _Part:
    """What has arrived so far, and what the server said it is."""

    def __init__(self, remote: Remote, path: Path) -> None:
        self.remote = remote
        self.path = path
        self.note = path.with_name(path.name + ".json")
        self.validator = self._read_validator()
        if self.have and self.validator is None:
            self.drop()

    @property
    def have(self) -> int:
        """Bytes that have arrived."""
        return self.path.stat().st_size if self.path.is_file() else 0

    def _read_validator(self) -> str | None:
        try:
            note = json.loads(self.note.read_text())
        except (OSError, ValueError):
            return None
        known = isinstance(note, dict) and note.get("address") == self.remote.address
        return str(note.get("validator", "")) if known else None

    def begin(self, validator: str) -> None:
        """Start from nothing, remembering what the server calls this version of the file."""
        self.path.write_bytes(b"")
        self.note.write_text(json.dumps({"address": self.remote.address, "validator": validator}))
        self.validator = validator

    def drop(self) -> None:
        """Take it away."""
        self.path.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)
        self.validator = None

    def request(self) -> dict[str, str]:
        """Headers asking for what is missing."""
        if not self.have:
            return {}
        headers = {"Range": f"bytes={self.have}-"}
        # without a validator a changed file shows in the checksum, after which it is fetched from its start
        return headers | ({"If-Range": self.validator} if self.validator else {})


def download(remote: Remote, path: Path, progress: Progress, patience: RetryPolicy | None = None) -> Path:
    """Fetch a file to ``path``, going on where an earlier attempt stopped.

    What has arrived stays at ``path`` when the connection breaks off for good or the user stops it. What is not the
    published file is deleted.

    Args:
        remote: address, checksum and, where stated, size.
        path: where it is collected; a note about its origin lies beside it.
        progress: told the kilobytes that have arrived; can stop the download.
        patience: how long to keep trying.

    Returns:
        ``path``, its checksum the published one.

    Raises:
        FetchError: the server cannot be reached, refuses, breaks off again and again, or sends something else.
        ChecksumError: a whole file arrived, but another one. StoreError: no space or no permission.
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
                # the earlier part may be of another version of the file: once more, from the start
                part.drop()
                resumed, reason = False, "sent another file"
            except RetryableError as error:
                reason = str(error)
                resumed = resumed or part.have > 0
            # only what goes beyond anything had before counts, or a server could keep us here for ever
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
                "with --from FILE."
            ),
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
    """One connection; returns when the server has sent all that it announced."""
    remote = part.remote
    try:
        response = ask(remote.address, part.request(), patience.timeout_s)
    except urllib.error.HTTPError as error:  # 416: there is nothing after what we have, so what we have is another file
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
    """Look at the answer's head; return how many bytes the whole file is said to have (``_MOST`` if it is not said)."""
    remote, headers = part.remote, response.headers
    if headers.get_content_type() in ("text/html", "application/xhtml+xml"):
        raise FetchError(
            f"a web page at {remote.host} where a file is published",
            "it is likely a login or an error page",
            "Open the address in a browser, save the file and give it with --from FILE.",
        )
    length = headers.get("Content-Length", "")
    announced = int(length) if length.isdigit() else None
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", "").strip())
    if response.status == 206:
        if not found or int(found[1]) != part.have:
            part.drop()
            raise RetryableError("sent another range than asked for")
    else:
        # no ranges here, or the file has changed since: from the start
        part.begin(_validator(headers))
    total = part.have + announced if announced is not None else None
    if remote.size is not None:
        if total is not None and total > remote.size:
            part.drop()
            raise FetchError(
                f"a file of {total} bytes at {remote.host}, but {remote.size} bytes are published",
                "it is another file",
                "Set MEDVIT_MIRROR to a place that has the right one, or give the file with --from FILE.",
            )
        total = remote.size
    _require_space((total or 0) - part.have)
    return total if total is not None else _MOST


def _validator(headers: Any) -> str:
    """What may stand in If-Range: a strong entity tag, else the date of the last change."""
    tag = headers.get("ETag", "")
    return str(tag if tag.startswith('"') else headers.get("Last-Modified", ""))


def _require_space(needed: int) -> None:
    # the file, and once more what is made of it
    free = shutil.disk_usage(store_folder()).free
    if 2 * needed > free:
        raise StoreError(
            f"{free >> 20} MiB free for the bundle store {store_folder()}",
            f"about {2 * needed >> 20} MiB are needed",
            "Free some space, or set MEDVIT_HOME to another disk.",
        )
