"""Folders and locks of the store. Light to import, since every command looks up bundles here."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from medvit.errors import FetchError, MedvitError, StoreError, system_words

__all__ = ["bundles_home", "cache_home", "locked", "os_errors_as_store_errors", "store_folder", "weights_home"]


def store_folder() -> Path:
    """Return the store's folder: ``MEDVIT_HOME``, else the platform's folder for user data. The folder may not exist
    yet.
    """
    given = os.environ.get("MEDVIT_HOME")
    if given:
        return Path(given).expanduser().absolute()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "medvit"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "medvit"
    xdg = os.environ.get("XDG_DATA_HOME", "")
    # the XDG specification says to ignore a relative path
    return (Path(xdg) if xdg.startswith("/") else Path.home() / ".local" / "share") / "medvit"


def bundles_home() -> Path:
    """Return the folder of whole bundles, one folder each; it belongs to the search path."""
    return store_folder() / "bundles"


def weights_home() -> Path:
    """Return the folder of weights of bundles that ship without, one folder each."""
    return store_folder() / "weights"


def cache_home() -> Path:
    """Return the folder of unfinished downloads."""
    return store_folder() / "cache"


@contextmanager
def os_errors_as_store_errors() -> Iterator[None]:
    """Convert the operating system's errors within the store to ``StoreError``."""
    try:
        yield
    except MedvitError:
        raise
    except OSError as error:
        what, step = system_words(error)
        raise StoreError(
            f"{what} in the bundle store {store_folder()}",
            "it must be writable",
            f"{step}, or set MEDVIT_HOME to another folder.",
        ) from error


def _try_lock(file: IO[str], wait: bool) -> bool:
    """Lock the file for this process; the operating system releases the lock when the process ends."""
    if sys.platform == "win32":
        import msvcrt

        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


@contextmanager
def locked(name: str, wait: bool = False) -> Iterator[None]:
    """Hold the named lock of the store.

    Raises:
        FetchError: another process holds the lock and ``wait`` is not set.
        StoreError: the store cannot be written.
    """
    with os_errors_as_store_errors():
        folder = store_folder() / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / f"{name}.lock").open("a")
    with file:
        if not _try_lock(file, wait):
            raise FetchError(
                f"another process fetching or removing {name}",
                "only one may",
                "Wait until it has finished, then try again.",
            )
        yield
