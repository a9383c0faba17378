"""The files of a source, one by one: a folder walked through, a zip read where it lies, the list of a DICOMDIR."""

from __future__ import annotations

import errno
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from medvit.errors import MedvitError, SourceError
from medvit.io.memory_limit import check_memory

__all__ = ["DicomFile", "folder_files", "listed_files", "one_file", "printable", "sound_zip", "zip_files"]

_LARGEST_ZIP = 32 * 2**30
"""Bytes a zip may unpack to; more is a damaged or hostile archive."""


@dataclass(frozen=True, slots=True)
class DicomFile:
    """One entry of a folder or zip.

    Attributes:
        name: its path within the source.
        open: gives a readable, seekable stream of its bytes.
        size: bytes.
    """

    name: str
    open: Callable[[], BinaryIO]
    size: int

    def read(self) -> bytes:
        """All of its bytes."""
        with self.open() as stream:
            return stream.read()

    @property
    def folder(self) -> str:
        """The folder it lies in, within the source."""
        return self.name.replace("\\", "/").rpartition("/")[0]


def printable(name: str) -> str:
    """A file name as any terminal and log can take it: bytes that are no text, and control characters, as numbers."""
    if name.isprintable():
        return name
    return "".join(c if c.isprintable() else f"<{ord(c):x}>" for c in name)


def _open(path: str) -> BinaryIO:
    try:
        return open(path, "rb")
    except OSError as error:
        raise SourceError(
            f"Found {printable(Path(path).name)}, which cannot be opened ({error.strerror}); every file must be "
            "readable. Check its permissions."
        ) from error


def one_file(path: Path) -> DicomFile:
    """A single file as a source."""
    return DicomFile(printable(path.name), partial(_open, str(path)), path.stat().st_size)


def folder_files(path: Path) -> Iterator[DicomFile]:
    """Every regular file below a folder, in a stable order; names are held one folder at a time.

    Pipes and devices are passed over, since reading them would wait forever, and so are links that lead nowhere or round
    in a circle.
    """
    top = len(str(path / "_")) - 1
    folders = [str(path)]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            raise SourceError(
                f"Found the folder {printable(Path(folder).name)}, which cannot be opened ({error.strerror}); every folder must be "
                "readable. Check its permissions."
            ) from error
        for entry in entries:
            size = _regular_size(entry)
            if size is not None:
                yield DicomFile(printable(entry.path[top:]), partial(_open, entry.path), size)
        # links to folders are not followed: they may lead round in a circle
        folders += [entry.path for entry in reversed(entries) if entry.is_dir(follow_symlinks=False)]


def _regular_size(entry: os.DirEntry[str]) -> int | None:
    """Bytes of a regular file, or of the one that a link leads to; None for anything else."""
    try:
        return entry.stat().st_size if entry.is_file() else None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOENT):
            return None
        raise SourceError(
            f"Found {printable(entry.name)}, which cannot be looked at ({error.strerror}); every file must be readable. "
            "Check its permissions."
        ) from error


def zip_files(archive: zipfile.ZipFile) -> list[DicomFile]:
    """The entries of a zip, read without unpacking.

    Raises:
        SourceError: an entry points outside of the archive, or all unpack to more than any archive of images.
        TooLargeError: an entry, which is read in memory, unpacks to more than the memory limit.
    """
    entries = [entry for entry in archive.infolist() if not entry.is_dir()]
    for entry in entries:
        parts = PurePosixPath(entry.filename.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts or ":" in parts.parts[0]:
            raise SourceError(
                f"Found the entry {entry.filename!r} in the zip, which points outside of it; entries must stay inside. "
                "Do not trust this archive: ask for another."
            )
    largest = max((entry.file_size for entry in entries), default=0)
    check_memory(largest, "a file in the zip", "Unpack it first")
    total = sum(entry.file_size for entry in entries)
    if total > _LARGEST_ZIP:
        raise SourceError(
            f"Found a zip that unpacks to {total / 2**30:.0f} GiB; at most {_LARGEST_ZIP // 2**30} are taken. Split it."
        )
    return [DicomFile(printable(e.filename), partial(_open_entry, archive, e), e.file_size) for e in entries]


def _open_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> BinaryIO:
    return archive.open(entry)  # type: ignore[return-value]  # an IO[bytes] that is read, seeked and closed


@contextmanager
def sound_zip(name: str) -> Iterator[None]:
    """Whatever a damaged, encrypted or oddly packed zip raises becomes one of our errors."""
    try:
        yield
    except (MedvitError, MemoryError):
        raise
    except Exception as error:
        raise SourceError(
            f"Found a damaged or encrypted zip ({name}: {type(error).__name__}: {error}); all of it must be readable. "
            "Copy it again, or unpack it first."
        ) from error


def listed_files(path: Path) -> tuple[list[DicomFile], list[str]]:
    """The files that a DICOMDIR lists (PS3.10 8.6), and the names of those that are not there.

    Names are matched without regard to case, since discs are often copied to lower case.

    Raises:
        SourceError: the DICOMDIR cannot be read, or lists a file outside of its folder.
    """
    import pydicom

    try:
        directory = pydicom.dcmread(path)
        records = directory.DirectoryRecordSequence or []
        wanted = [r.ReferencedFileID for r in records if r.get("ReferencedFileID")]
    except Exception as error:
        raise SourceError(
            f"Found {path.name}, a DICOMDIR that cannot be read ({type(error).__name__}); it must list the disc's files. "
            "Give the folder it lies in instead."
        ) from error
    found, absent, folders = [], [], _Folders()
    for parts in wanted:
        parts = [parts] if isinstance(parts, str) else [str(part) for part in parts]
        name = printable("/".join(parts))
        if any(part in ("..", ".", "") or "/" in part or "\\" in part or ":" in part for part in parts):
            raise SourceError(
                f"Found a DICOMDIR that lists {name!r}, outside of its folder; entries must stay inside. "
                "Do not trust this disc: ask for another."
            )
        full = folders.find(path.parent, parts)
        if full is None:
            absent.append(name)
        else:
            within = printable(str(full.relative_to(path.parent)))
            found.append(DicomFile(within, partial(_open, str(full)), full.stat().st_size))
    return found, absent


class _Folders:
    """Looks names up in folders, upper or lower case alike; each folder is listed once, however many names are asked."""

    def __init__(self) -> None:
        self._names: dict[Path, dict[str, str]] = {}

    def find(self, folder: Path, parts: list[str]) -> Path | None:
        """The file at ``parts`` below a folder, or None."""
        at = folder
        for part in parts:
            exact = at / part
            if not exact.exists():
                name = self._listed(at).get(part.upper())
                if name is None:
                    return None
                exact = at / name
            at = exact
        return at if at.is_file() else None

    def _listed(self, folder: Path) -> dict[str, str]:
        if folder not in self._names:
            names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
            self._names[folder] = {name.upper(): name for name in sorted(names, reverse=True)}
        return self._names[folder]
