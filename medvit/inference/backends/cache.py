"""Cache of converted graphs in the user's cache folder; entries are written atomically, verified at each use, evicted
by age."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medvit.atomic_write import staging_folder
from medvit.errors import BackendError, system_words
from medvit.user_folders import cache_folder

__all__ = ["get_or_build"]

_RECORD = "made.json"
"""Name of an entry's record, written last: the facts about the entry and the sha256 of each of its files."""

_LIMIT = 2 * 2**30
"""Largest total size of all entries in bytes; beyond it the least recently used entry is removed."""


def get_or_build(kind: str, key: str, make: Callable[[Path], dict[str, Any]]) -> tuple[Path, dict[str, Any]]:
    """Return the folder of a cache entry and its record; build the entry if it is missing or damaged.

    Args:
        kind: name of the folder for entries of this kind.
        key: name of the entry.
        make: function that writes the entry's files into the folder it is given and returns the facts to record about
            them.

    Raises:
        BackendError: the cache cannot be written.
    """
    entry = cache_folder() / kind / key
    record = _intact(entry)
    if record is not None:
        _touch(entry)
        return entry, record
    try:
        shutil.rmtree(entry, ignore_errors=True)  # the existing entry is damaged
        entry.parent.mkdir(parents=True, exist_ok=True)
        with staging_folder(entry) as aside:
            record = make(aside)
            files = {file.name: _sha256(file) for file in sorted(aside.iterdir())}
            (aside / _RECORD).write_text(json.dumps({"files": files, "facts": record}, indent=2))
            _put(aside, entry)
        # where another process was faster, its record counts: every process must choose alike
        record = _intact(entry) or record
    except OSError as error:
        what, step = system_words(error)
        raise BackendError(
            f"{what} in the cache {cache_folder()}",
            "a converted network is kept there",
            f"{step}, set MEDVIT_CACHE to another folder, or use {{backend=eager}}, which needs none.",
            option="backend",
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
    """Return the record of an entry whose files all have their recorded hashes, else None."""
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
        return  # a read-only cache keeps no order of use


def _let_go(newest: Path) -> None:
    """Remove the least recently used entries until the total size is below the limit; keep the newest entry."""
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
