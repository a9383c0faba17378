"""Atomic writing: files are written to a hidden folder, which becomes the result or is deleted."""

from __future__ import annotations

import glob
import hashlib
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from medvit.errors import MedvitError, OutputError, system_words

__all__ = ["HIDDEN", "hashes_within", "os_errors_as_output_errors", "publish", "replace_file", "staging_folder"]

HIDDEN = ".medvit-"
"""Prefix of the names of hidden folders and files."""


@contextmanager
def os_errors_as_output_errors(folder: Path) -> Iterator[None]:
    """Convert the operating system's errors to ``OutputError``."""
    try:
        yield
    except MedvitError:
        raise
    except OSError as error:
        what, step = system_words(error)
        raise OutputError(
            f"{what} when writing to {folder}",
            "nothing was published",
            f"{step}, or choose another folder with {{folder=...}}.",
            option="folder",
        ) from error


@contextmanager
def staging_folder(folder: Path) -> Iterator[Path]:
    """Yield a hidden folder on the same file system as the final folder; it is always deleted at the end.

    The hidden folder is created beside a final folder that does not exist yet, and inside one that does: the parent of
    a mounted folder may be another file system or read-only. Hidden folders left by killed runs are deleted too.
    """
    home = folder if folder.is_dir() else folder.parent
    made = [p for p in (home, *home.parents) if not p.exists()]
    home.mkdir(parents=True, exist_ok=True)
    _sweep(home)
    place = Path(tempfile.mkdtemp(prefix=_own_prefix(), dir=home))
    umask = os.umask(0)
    os.umask(umask)
    place.chmod(0o777 & ~umask)  # mkdtemp denies access to others; results get the user's usual permissions
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
        for parent in made:
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()


@contextmanager
def replace_file(
    path: Path, *, staged_in: Path | None = None, durable: bool = False, private: bool = False
) -> Iterator[Path]:
    """Yield the name of a hidden file that replaces ``path`` when the block ends without error, or is deleted.

    Also delete the hidden files that killed runs left for the same path.

    Args:
        path: the file to write.
        staged_in: folder of the hidden file, on the same file system; by default that of ``path``.
        durable: flush the file to the disk before it replaces the earlier one.
        private: give no access to other users, from the first byte on and whatever the umask.
    """
    home = staged_in or path.parent
    for folder in (path.parent, home):
        folder.mkdir(parents=True, exist_ok=True)
    _sweep(home, f"*{glob.escape(path.name)}")
    aside = home / f"{_own_prefix()}{threading.get_ident()}-{path.name}"
    try:
        if private:
            os.close(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        yield aside
        if durable:
            with aside.open("r+b") as file:
                os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def _names_within(folder: Path) -> list[str]:
    """Return the files of a result by their sorted paths within it: ``seg.dcm``, ``sc/0001.dcm``."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def hashes_within(folder: Path) -> dict[str, str]:
    """Return the sha256 of each file of a result, by its path within it, for run.json."""
    found = {}
    for name in _names_within(folder):
        with (folder / name).open("rb") as file:
            found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def publish(staging: Path, final: Path, ours: Iterable[str]) -> None:
    """Move all files to their final names: the whole folder by one rename, or file by file into an existing one.

    Args:
        staging: the staging folder, with ``run.json`` in it.
        final: the final folder.
        ours: names or patterns of files that an earlier result may have left (``seg.dcm``, ``sc/[0-9]*.dcm``); those
            not written again are removed, other files stay.
    """
    written = _names_within(staging)
    for name in written:
        with (staging / name).open("r+b") as file:
            os.fsync(file.fileno())
    if not final.exists():
        os.replace(staging, final)
        return
    for folder in {(final / name).parent for name in written}:
        folder.mkdir(exist_ok=True)
    # run.json marks a complete result: it is removed before files change and moved last, with the hash of each
    (final / "run.json").unlink(missing_ok=True)
    for stale in [path for pattern in ours for path in final.glob(pattern)]:
        if stale.relative_to(final).as_posix() not in written:
            stale.unlink(missing_ok=True)
            if stale.parent != final and not any(stale.parent.iterdir()):
                stale.parent.rmdir()
    for name in sorted(written, key=lambda n: (n == "run.json", n)):
        os.replace(staging / name, final / name)


def _own_prefix() -> str:
    return f"{HIDDEN}{socket.gethostname()}-{os.getpid()}-"


def _sweep(parent: Path, names: str = "*") -> None:
    """Delete hidden folders and files left by killed runs on this machine; those of running processes are kept."""
    host = f"{HIDDEN}{socket.gethostname()}-"
    for stale in parent.glob(f"{host}*-{names}"):
        pid = stale.name.removeprefix(host).partition("-")[0]
        if not pid.isdigit() or _alive(int(pid)):
            continue
        if stale.is_dir():
            shutil.rmtree(stale, ignore_errors=True)
        else:
            with suppress(OSError):
                stale.unlink()


def _alive(pid: int) -> bool:
    if os.name == "nt":
        return True  # on Windows, os.kill with signal 0 would end the process
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
