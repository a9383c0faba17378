"""Reading of zip archives without unpacking them: links are resolved, and unsafe or oversized entries are refused."""

from __future__ import annotations

import posixpath
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import PurePosixPath
from typing import BinaryIO

from medvit.errors import MedvitError, SourceError
from medvit.io.files import MACOS_WORDS, DicomFile, is_macos_file, printable_name
from medvit.io.memory_limits import check_memory
from medvit.io.unread_files import NOWHERE, Unread

__all__ = ["image_entries", "zip_errors_as_source_errors", "zip_files"]

_LARGEST_ZIP = 32 * 2**30
"""Largest total of a zip's unpacked entries, in bytes; an archive with more is damaged or hostile."""

_MOST_LINKS = 40
"""Largest number of links in a chain, as on Linux."""

_LONGEST_PATH = 4096
"""Longest target of a link, in bytes."""


def zip_files(archive: zipfile.ZipFile, unread: Unread | None = None) -> list[DicomFile]:
    """List the entries of a zip as files that can be read without unpacking.

    Args:
        archive: the zip, open.
        unread: collects broken links and empty folders of the zip.

    Returns:
        The files; folders and links are left out.

    Raises:
        SourceError: an entry points outside of the archive, or the entries together unpack to more than 32 GiB.
        TooLargeError: an entry, which is read in memory, unpacks to more than the memory limit.

    Examples:
        >>> import zipfile
        >>> from medvit.io import zip_files
        >>> with zipfile.ZipFile("series.zip", "w") as archive:
        ...     archive.writestr("series/001.dcm", b"pixels")
        >>> with zipfile.ZipFile("series.zip") as archive:
        ...     [(file.name, file.size) for file in zip_files(archive)]
        [('series/001.dcm', 6)]
    """
    files = [entry for entry in archive.infolist() if not entry.is_dir()]
    entries = image_entries(archive)
    if unread is not None and len(files) > len(entries):
        unread.passed[MACOS_WORDS] += len(files) - len(entries)
    for entry in files:
        parts = PurePosixPath(entry.filename.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts or ":" in parts.parts[0]:
            raise SourceError(
                f"the entry {entry.filename!r} in the zip, which points outside of it",
                "entries must stay inside",
                "Do not trust this archive: ask for another.",
            )
    largest = max((entry.file_size for entry in entries), default=0)
    check_memory(largest, "a file in the zip", "Unpack it first")
    total = sum(entry.file_size for entry in entries)
    if total > _LARGEST_ZIP:
        raise SourceError(
            f"a zip that unpacks to {total / 2**30:.0f} GiB", f"at most {_LARGEST_ZIP // 2**30} are taken", "Split it."
        )
    links = [entry for entry in entries if stat.S_ISLNK(entry.external_attr >> 16)]
    if unread is not None:
        within = {posixpath.dirname(name.rstrip("/")) for name in archive.namelist()}
        unread.hollow += [
            printable_name(name.rstrip("/"))
            for name in archive.namelist()
            if name.endswith("/") and name.rstrip("/") not in within and not is_macos_file(name)
        ]
    if links and unread is not None:
        _follow(archive, links, unread)
    return [
        DicomFile(printable_name(e.filename), partial(_open_entry, archive, e), e.file_size)
        for e in entries
        if e not in links
    ]


def image_entries(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """Return the entries of a zip that are files, without those that macOS adds.

    Args:
        archive: the zip, open.
    """
    return [entry for entry in archive.infolist() if not entry.is_dir() and not is_macos_file(entry.filename)]


def _follow(archive: zipfile.ZipFile, links: list[zipfile.ZipInfo], unread: Unread) -> None:
    """Resolve the links of a zip: count those that lead to an entry, which is read anyway, and record the others as
    broken.
    """
    goals = {
        link.filename: archive.read(link).decode("utf-8", "replace") if link.file_size <= _LONGEST_PATH else ""
        for link in links
    }
    names = [name.rstrip("/") for name in archive.namelist() if name not in goals]
    there = {part for name in names for part in (name, *map(str, PurePosixPath(name).parents))}
    for name in goals:
        if _reached(name, goals, there):
            unread.passed["link(s) to files that are read by another name"] += 1
        else:
            unread.lost.append((printable_name(name), NOWHERE))


def _reached(name: str, goals: dict[str, str], there: set[str]) -> bool:
    """Follow a link of a zip through other links; return True if it ends at an entry."""
    for _ in range(_MOST_LINKS):
        parts = PurePosixPath(name).parts
        heads = (posixpath.join(*parts[:count]) for count in range(1, len(parts) + 1))
        link = next((head for head in heads if head in goals), None)
        if link is None:
            return name in there
        if not goals[link]:
            return False
        name = posixpath.normpath(posixpath.join(posixpath.dirname(link), goals[link], name[len(link) :].lstrip("/")))
    return False  # the links form a circle


def _open_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> BinaryIO:
    return archive.open(entry)  # type: ignore[return-value]  # an IO[bytes] that is read, seeked and closed


@contextmanager
def zip_errors_as_source_errors(name: str) -> Iterator[None]:
    """Convert exceptions raised by a damaged, encrypted or unsupported zip to ``SourceError``.

    Args:
        name: name of the zip in the message.

    Yields:
        None.

    Raises:
        SourceError: the block raised an exception other than ``MedvitError`` or ``MemoryError``.

    Examples:
        >>> import zipfile
        >>> from io import BytesIO
        >>> from medvit.io import zip_errors_as_source_errors
        >>> with zip_errors_as_source_errors("scan.zip"):
        ...     archive = zipfile.ZipFile(BytesIO(b"not a zip"))
        Traceback (most recent call last):
            ...
        medvit.errors.SourceError: Found a damaged or encrypted zip (scan.zip: BadZipFile: ...
    """
    try:
        yield
    except (MedvitError, MemoryError):
        raise
    except Exception as error:
        raise SourceError(
            f"a damaged or encrypted zip ({name}: {type(error).__name__}: {error})",
            "all of it must be readable",
            "Copy it again, or unpack it first.",
        ) from error
