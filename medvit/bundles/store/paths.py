"""Folders within the store of fetched bundles, and the lock that allows one fetch at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medvit.errors import FetchError, MedvitError, StoreError, system_words
from medvit.user_folders import store_folder

__all__ = ["bundles_home", "cache_home", "locked", "os_errors_as_store_errors", "weights_home"]


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


@contextmanager
def locked(name: str, wait: bool = False) -> Iterator[None]:
    """Hold the named lock of the store; the operating system releases it with the process, even when that is killed.

    Raises:
        FetchError: another process holds the lock and ``wait`` is not set.
        StoreError: the store cannot be written.
    """
    from filelock import FileLock, Timeout  # not at the top: bundles are looked up on every command, without a lock

    folder = store_folder() / "locks"
    with os_errors_as_store_errors():
        folder.mkdir(parents=True, exist_ok=True)
        # a lock that consists of a file's existence, filelock's substitute on some file systems, would outlive a kill
        lock = FileLock(folder / f"{name}.lock", timeout=-1 if wait else 0, fallback_to_soft=False)
        try:
            held = lock.acquire()
        except Timeout:
            raise FetchError(
                f"another process fetching or removing {name}",
                "only one may",
                "Wait until it has finished, then try again.",
            ) from None
    with held:
        yield
