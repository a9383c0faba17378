"""Walking an archive folder by folder: nothing in it can stop the walk."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from medvit.atomic_write import HIDDEN
from medvit.io import EnteredFolders, why_lost, without_digits

__all__ = ["Entry", "Folder", "walk"]


@dataclass(frozen=True, slots=True)
class Entry:
    """A regular file.

    Attributes:
        name: within its folder, as the system's bytes: names need not be text.
        size: bytes.
        modified: when its content was written, nanoseconds; copies may keep an old one.
        changed: when it came to be here, nanoseconds; nobody sets it back.
    """

    name: bytes
    size: int
    modified: int
    changed: int


@dataclass(frozen=True, slots=True)
class Folder:
    """One folder's files, sorted by name.

    Attributes:
        path: its bytes.
        files: regular files; pipes and devices are left out.
        links: names of the folder that lead to one read already, by another name.
        lost: names of files that cannot be looked at, such as links that lead nowhere, and why (``medvit.io.unread_files``).
        hollow: names of pipes, devices and empty folders that are named like files beside them.
        problem: why it could not be read; empty if it was.
    """

    path: bytes
    files: tuple[Entry, ...] = ()
    links: int = 0
    problem: str = ""
    lost: tuple[tuple[bytes, str], ...] = ()
    hollow: tuple[bytes, ...] = ()


def walk(top: str | os.PathLike[str], leave_out: str | os.PathLike[str]) -> Iterator[Folder]:
    """Give every folder below ``top`` in a stable order, without the one that results go to.

    Links to folders are followed once all real ones are walked; none leads to a folder that was walked before, to one above
    the archive, or to the results.
    """
    folders, out = [os.fsencode(os.path.realpath(top))], os.fsencode(os.path.realpath(leave_out))
    entered, linked = EnteredFolders(folders[0]), deque[bytes]()
    while folders or linked:
        path = folders.pop() if folders else linked.popleft()
        try:
            if os.path.realpath(path) == out:
                continue
            if not entered.enter(path):
                yield Folder(path, links=1)
                continue
            with os.scandir(path) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            yield Folder(path, problem=error.strerror or type(error).__name__)
            continue
        files: list[Entry] = []
        within: list[bytes] = []
        lost: list[tuple[bytes, str]] = []
        doubtful: list[os.DirEntry[bytes]] = []
        for entry in entries:
            try:
                stated = entry.stat()
                if entry.is_file():
                    files.append(Entry(entry.name, stated.st_size, stated.st_mtime_ns, max(stated.st_ctime_ns, 0)))
                elif entry.is_dir() and entry.name != b".git" and not entry.name.startswith(os.fsencode(HIDDEN)):
                    (linked if entry.is_symlink() else within).append(entry.path)
                    doubtful.append(entry)
                elif not entry.is_dir():
                    doubtful.append(entry)
            except OSError as error:
                lost.append((entry.name, why_lost(error, entry.is_symlink())))
        yield Folder(path, tuple(files), lost=tuple(lost), hollow=_hollow(doubtful, files))
        folders += reversed(within)


def _hollow(entries: Iterable[os.DirEntry[bytes]], files: Iterable[Entry]) -> tuple[bytes, ...]:
    """Find entries that are no files, hold nothing, and are named like the files beside them."""
    alike = {without_digits(os.fsdecode(file.name)) for file in files}
    return tuple(e.name for e in entries if without_digits(os.fsdecode(e.name)) in alike and _holds_nothing(e))


def _holds_nothing(entry: os.DirEntry[bytes]) -> bool:
    if not entry.is_dir():
        return True
    try:
        with os.scandir(entry.path) as found:
            return next(found, None) is None
    except OSError:
        return False  # said when the walk comes to it
