"""Writing aside: a hidden folder that becomes the result or vanishes."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medvit.errors import MedvitError, OutputError

__all__ = ["HIDDEN", "explained", "write_aside"]

HIDDEN = ".medvit-"
"""How the names of such folders begin."""


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turn the system's refusals into ours."""
    try:
        yield
    except MedvitError:
        raise
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        what = "no space left" if full else f"{error.strerror or error}"
        step = "Free some space" if full else "Check its permissions"
        raise OutputError(
            f"Found {what} when writing to {folder}; nothing was published. {step}, or choose another folder with -o."
        ) from error


@contextmanager
def write_aside(folder: Path) -> Iterator[Path]:
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
