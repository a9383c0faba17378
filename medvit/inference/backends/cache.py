"""Cache of converted graphs in the user's cache folder; entries are written atomically, verified at each use, evicted
by age."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any

from medvit.atomic_write import staging_folder
from medvit.errors import BackendError, system_words
from medvit.progress import Progress
from medvit.user_folders import cache_folder

__all__ = ["estimate", "get_or_build"]

_RECORD = "made.json"
"""Name of an entry's record, written last: the facts about the entry and the sha256 of each of its files."""

_LONGEST_WAIT = 600.0
"""Seconds to wait for another process; one that hangs must not stop the others."""

_LIMIT = 2 * 2**30
"""Largest total size of all entries in bytes; beyond it the least recently used entry is removed."""


def get_or_build(
    kind: str, key: str, make: Callable[[Path], dict[str, Any]], progress: Progress | None = None
) -> tuple[Path, dict[str, Any]]:
    """Return the folder of a cache entry and its record; build the entry if it is missing or damaged.

    Of several processes that need an entry at once, one builds it and the others wait.

    Args:
        kind: name of the folder for entries of this kind.
        key: name of the entry.
        make: function that writes the entry's files into the folder it is given and returns the facts to record about
            them.
        progress: told while another process builds the entry; can cancel the wait.

    Raises:
        BackendError: the cache cannot be written.
        Cancelled: the wait was cancelled.
    """
    entry = cache_folder() / kind / key
    record = _intact(entry)
    if record is not None:
        _touch(entry)
        return entry, record
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        locks = cache_folder() / "locks"
        locks.mkdir(exist_ok=True)
        with _locked(entry, locks / f"{kind}-{key}.lock", progress or Progress()):
            record = _intact(entry)  # another process may have built it meanwhile
            if record is not None:
                return entry, record
            shutil.rmtree(entry, ignore_errors=True)  # the existing entry is damaged
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


def estimate(kind: str, expected: float) -> float:
    """Correct an expected duration by what entries of this kind took on this machine.

    Args:
        kind: kind of the entries; their facts hold ``seconds`` and ``expected``.
        expected: duration that the size of the work suggests.
    """
    factors = []
    for record in (cache_folder() / kind).glob(f"*/{_RECORD}"):
        with suppress(OSError, ValueError, KeyError, TypeError, ZeroDivisionError):
            facts = json.loads(record.read_text())["facts"]
            factors.append(facts["seconds"] / facts["expected"])
    return expected * median(factors) if factors else expected


@contextmanager
def _locked(entry: Path, place: Path, progress: Progress) -> Iterator[None]:
    """Hold the lock of an entry, a file at ``place``, which the system releases with the process, even when that is killed."""
    from filelock import FileLock, Timeout  # not at the top: an entry that is there needs no lock

    lock = FileLock(place, fallback_to_soft=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress.announce("Waiting for another process, which prepares the network for this machine")
        until = time.monotonic() + _LONGEST_WAIT
        while not lock.is_locked:
            progress.check()
            if _intact(entry) is not None or time.monotonic() > until:
                break
            with suppress(Timeout):
                lock.acquire(timeout=0.5)
    except (OSError, NotImplementedError):
        pass  # a file system without locks: each process builds the entry, and the first one's is kept
    try:
        yield
    finally:
        lock.release()


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
