"""Writing aside: a hidden folder that becomes the result or vanishes."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from medvit.errors import MedvitError, OutputError, system_words

__all__ = ["HIDDEN", "hashes_within", "os_errors_as_output_errors", "publish", "replace_file", "staging_folder"]

HIDDEN = ".medvit-"
"""How the names of such folders begin."""


@contextmanager
def os_errors_as_output_errors(folder: Path) -> Iterator[None]:
    """Turn the system's refusals into ours."""
    try:
        yield
    except MedvitError:
        raise
    except OSError as error:
        what, step = system_words(error)
        raise OutputError(
            f"{what} when writing to {folder}", "nothing was published", f"{step}, or choose another folder with -o."
        ) from error


@contextmanager
def staging_folder(folder: Path) -> Iterator[Path]:
    """A hidden folder on the final one's file system, gone in the end whatever happens, as are those of killed runs.

    It lies beside a folder that is to be made, and inside one that is there: of a mounted folder, the parent may be
    another file system or closed.
    """
    home = folder if folder.is_dir() else folder.parent
    made = [p for p in (home, *home.parents) if not p.exists()]
    home.mkdir(parents=True, exist_ok=True)
    _sweep(home)
    place = Path(tempfile.mkdtemp(prefix=f"{HIDDEN}{socket.gethostname()}-{os.getpid()}-", dir=home))
    umask = os.umask(0)
    os.umask(umask)
    place.chmod(0o777 & ~umask)  # mkdtemp closes its folders to others; results are as open as the user's other files
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
        for parent in made:
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """A hidden name beside a file that takes its place once all is written, or vanishes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.parent / f"{HIDDEN}{socket.gethostname()}-{os.getpid()}-{path.name}"
    try:
        yield aside
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def _names_within(folder: Path) -> list[str]:
    """All files of a result, sorted, by their paths within it: ``seg.dcm``, ``sc/0001.dcm``."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def hashes_within(folder: Path) -> dict[str, str]:
    """sha256 of each file of a result, by its path within it; what run.json seals."""
    found = {}
    for name in _names_within(folder):
        with (folder / name).open("rb") as file:
            found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def publish(staging: Path, final: Path, ours: Iterable[str]) -> None:
    """Give everything its final name: the whole folder in one rename, or file by file into an existing one.

    Args:
        staging: the folder written aside, with ``run.json`` in it.
        final: the folder wanted.
        ours: names or patterns that an earlier result may have (``seg.dcm``, ``sc/[0-9]*.dcm``); those not written
            again are taken away, other files stay.
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
    # run.json is the seal: gone while files change, back as the last with the hash of each
    (final / "run.json").unlink(missing_ok=True)
    for stale in [path for pattern in ours for path in final.glob(pattern)]:
        if stale.relative_to(final).as_posix() not in written:
            stale.unlink(missing_ok=True)
            if stale.parent != final and not any(stale.parent.iterdir()):
                stale.parent.rmdir()
    for name in sorted(written, key=lambda n: (n == "run.json", n)):
        os.replace(staging / name, final / name)


def _sweep(parent: Path) -> None:
    """Take away what a killed run of this machine left; a process that still runs keeps its folder."""
    for stale in parent.glob(f"{HIDDEN}{socket.gethostname()}-*-*"):
        pid = stale.name.split("-")[-2]
        if pid.isdigit() and not _alive(int(pid)):
            shutil.rmtree(stale, ignore_errors=True)


def _alive(pid: int) -> bool:
    if os.name == "nt":
        return True  # signal 0 is not a question there but an order
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
