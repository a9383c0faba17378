"""Walking an archive folder by folder: nothing in it can stop the walk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from medvit.io.staging import HIDDEN

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
        files: regular files; pipes, devices and links that lead nowhere are left out.
        links: links to folders, which are not followed: they may lead round in a circle.
        problem: why it could not be read; empty if it was.
    """

    path: bytes
    files: tuple[Entry, ...] = ()
    links: int = 0
    problem: str = ""


def walk(top: str | os.PathLike[str], leave_out: str | os.PathLike[str]) -> Iterator[Folder]:
    """Every folder below ``top`` in a stable order, without the one that results go to."""
    folders, out = [os.fsencode(os.path.realpath(top))], os.fsencode(os.path.realpath(leave_out))
    while folders:
        path = folders.pop()
        try:
            with os.scandir(path) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            yield Folder(path, problem=error.strerror or type(error).__name__)
            continue
        files, links, within = [], 0, []
        for entry in entries:
            kind, stated = _look(entry)
            if kind == "file" and stated is not None:
                files.append(Entry(entry.name, stated.st_size, stated.st_mtime_ns, max(stated.st_ctime_ns, 0)))
            elif kind == "link":
                links += 1
            elif kind == "folder" and entry.path != out and not entry.name.startswith(os.fsencode(HIDDEN)):
                within.append(entry.path)
        yield Folder(path, tuple(files), links)
        folders += reversed(within)


def _look(entry: os.DirEntry[bytes]) -> tuple[str, os.stat_result | None]:
    try:
        if entry.is_dir(follow_symlinks=False):
            return "folder", None
        if entry.is_symlink() and entry.is_dir():
            return "link", None
        return ("file", entry.stat()) if entry.is_file() else ("", None)
    except OSError:  # it vanished, or a link leads round in a circle
        return "", None
