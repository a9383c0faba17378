"""Walk through the folders of an archive; an unreadable folder or file is reported and does not end the walk."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from medvit.atomic_write import HIDDEN
from medvit.io import EnteredFolders, is_macos_file, why_lost, without_digits

__all__ = ["Entry", "Folder", "walk"]


@dataclass(frozen=True, slots=True)
class Entry:
    """A regular file.

    Attributes:
        name: name within its folder, in the bytes of the file system, since a name need not be valid text.
        size: bytes.
        modified: time at which the content was written, in nanoseconds; a copy may keep an old one.
        changed: time at which the file arrived here, in nanoseconds; no program can set it back.
    """

    name: bytes
    size: int
    modified: int
    changed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Folder:
    """Files of one folder, sorted by name.

    Attributes:
        path: path in bytes.
        files: regular files.
        links: 1 if the path leads to a folder that was already read under another name, else 0.
        lost: (name, reason) of files that cannot be read, such as links with a missing target
            (``medvit.io.unread_files``).
        hollow: names of pipes, devices and empty folders that are named like files beside them.
        problem: reason why the folder could not be read; empty if it was read.
    """

    path: bytes
    files: tuple[Entry, ...] = ()
    links: int = 0
    problem: str = ""
    lost: tuple[tuple[bytes, str], ...] = ()
    hollow: tuple[bytes, ...] = ()


def walk(top: str | os.PathLike[str], leave_out: str | os.PathLike[str]) -> Iterator[Folder]:
    """Yield each folder below ``top`` in a stable order, except ``leave_out``.

    Files that macOS adds beside others are left out. Links to folders are followed after all real folders. A link to a folder that was walked before, to a parent of the
    archive or to ``leave_out`` is not followed.
    """
    folders, out = [os.fsencode(os.path.realpath(top))], os.fsencode(os.path.realpath(leave_out))
    entered, linked = EnteredFolders(folders[0]), deque[bytes]()
    while folders or linked:
        path = folders.pop() if folders else linked.popleft()
        try:
            if os.path.realpath(path) == out:
                continue
            if not entered.enter(path):
                yield Folder(path=path, links=1)
                continue
            with os.scandir(path) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            yield Folder(path=path, problem=error.strerror or type(error).__name__)
            continue
        files: list[Entry] = []
        within: list[bytes] = []
        lost: list[tuple[bytes, str]] = []
        doubtful: list[os.DirEntry[bytes]] = []
        for entry in entries:
            try:
                stated = entry.stat()
                if is_macos_file(os.fsdecode(entry.name)) or entry.name == b"__MACOSX":
                    continue
                if entry.is_file():
                    files.append(Entry(entry.name, stated.st_size, stated.st_mtime_ns, max(stated.st_ctime_ns, 0)))
                elif entry.is_dir() and entry.name != b".git" and not entry.name.startswith(os.fsencode(HIDDEN)):
                    (linked if entry.is_symlink() else within).append(entry.path)
                    doubtful.append(entry)
                elif not entry.is_dir():
                    doubtful.append(entry)
            except OSError as error:
                lost.append((entry.name, why_lost(error, entry.is_symlink())))
        yield Folder(path=path, files=tuple(files), lost=tuple(lost), hollow=_hollow(doubtful, files))
        folders += reversed(within)


def _hollow(entries: Iterable[os.DirEntry[bytes]], files: Iterable[Entry]) -> tuple[bytes, ...]:
    """Return the names of pipes, devices and empty folders that are named like the files beside them."""
    alike = {without_digits(os.fsdecode(file.name)) for file in files}
    return tuple(e.name for e in entries if without_digits(os.fsdecode(e.name)) in alike and _holds_nothing(e))


def _holds_nothing(entry: os.DirEntry[bytes]) -> bool:
    if not entry.is_dir():
        return True
    try:
        with os.scandir(entry.path) as found:
            return next(found, None) is None
    except OSError:
        return False  # reported when the walk reaches this folder
