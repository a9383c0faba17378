"""Graphs made once and kept in the user's cache folder: written aside, renamed, checked at every use, the oldest let go."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medvit.atomic_write import staging_folder
from medvit.errors import BackendError, system_words

__all__ = ["cache_folder", "get_or_build"]

_RECORD = "made.json"
"""Written last: what the entry is, and the sha256 of each of its files."""

_LIMIT = 2 * 2**30
"""Bytes that entries may take together before the one used longest ago goes."""


def cache_folder() -> Path:
    """``MEDVIT_CACHE``, else the platform's folder for what a program can make again. It need not exist yet."""
    given = os.environ.get("MEDVIT_CACHE")
    if given:
        return Path(given).expanduser().absolute()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "medvit" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "medvit"
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(xdg) if xdg.startswith("/") else Path.home() / ".cache") / "medvit"


def get_or_build(kind: str, key: str, make: Callable[[Path], dict[str, Any]]) -> tuple[Path, dict[str, Any]]:
    """The folder of an entry and its record; made if it is not there, or not as it was written.

    Args:
        kind: a folder's name.
        key: the entry's.
        make: writes the entry's files into the folder it is given, and returns what is to be known about them.

    Raises:
        BackendError: the cache cannot be written.
    """
    entry = cache_folder() / kind / key
    record = _intact(entry)
    if record is not None:
        _touch(entry)
        return entry, record
    try:
        shutil.rmtree(entry, ignore_errors=True)  # what is there is not whole
        entry.parent.mkdir(parents=True, exist_ok=True)
        with staging_folder(entry) as aside:
            record = make(aside)
            files = {file.name: _sha256(file) for file in sorted(aside.iterdir())}
            (aside / _RECORD).write_text(json.dumps({"files": files, "facts": record}, indent=2))
            _put(aside, entry)
    except OSError as error:
        what, step = system_words(error)
        raise BackendError(
            f"{what} in the cache {cache_folder()}",
            "a converted network is kept there",
            f"{step}, set MEDVIT_CACHE to another folder, or use --backend eager, which needs none.",
        ) from error
    _let_go(entry)
    return entry, record


def _put(aside: Path, entry: Path) -> None:
    try:
        os.replace(aside, entry)
    except OSError:
        if _intact(entry) is not None:
            return  # another process was faster
        shutil.rmtree(entry, ignore_errors=True)
        os.replace(aside, entry)


def _intact(entry: Path) -> dict[str, Any] | None:
    """The record of an entry all of whose files are as they were written, else None."""
    try:
        content = json.loads((entry / _RECORD).read_text())
        files = content["files"]
        whole = bool(files) and all(_sha256(entry / name) == digest for name, digest in files.items())
        return dict(content["facts"]) if whole else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _touch(entry: Path) -> None:
    try:
        os.utime(entry / _RECORD)
    except OSError:
        return  # a cache that may only be read has no order of use


def _let_go(newest: Path) -> None:
    """Take entries away, those used longest ago first, until the rest is below the limit; the newest stays."""
    sizes: dict[Path, int] = {}
    for record in newest.parent.glob(f"*/{_RECORD}"):
        sizes[record.parent] = sum(file.stat().st_size for file in record.parent.iterdir())
    total = sum(sizes.values())
    for entry in sorted(sizes, key=lambda e: (e / _RECORD).stat().st_mtime):
        if total <= _LIMIT:
            return
        if entry != newest:
            total -= sizes[entry]
            shutil.rmtree(entry, ignore_errors=True)
