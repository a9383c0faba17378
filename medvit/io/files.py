"""Enumeration of a source's files: all files below a folder, or those that a DICOMDIR lists."""

from __future__ import annotations

import contextlib
import errno
import gzip
import os
import re
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from medvit.errors import SourceError
from medvit.io.memory_limits import check_memory, memory_limit
from medvit.io.unread_files import (
    LISTED,
    NOT_FETCHED,
    NOWHERE,
    VANISHED,
    EnteredFolders,
    Unread,
    is_special,
    next_step,
    why_lost,
)

__all__ = [
    "MACOS_WORDS",
    "DicomFile",
    "UnreadableError",
    "dicomdir_files",
    "files_below",
    "folder_files",
    "folder_of",
    "is_macos_file",
    "is_packed",
    "not_fetched",
    "one_file",
    "printable_name",
    "unpacked",
    "unreadable",
    "without_digits",
]


@dataclass(frozen=True, slots=True)
class DicomFile:
    """A file of a folder or zip that may be DICOM.

    Attributes:
        name: path within the source.
        open: function that returns a readable, seekable stream of the bytes.
        size: size in bytes.

    Examples:
        >>> from io import BytesIO
        >>> from medvit.io import DicomFile
        >>> file = DicomFile("series/001.dcm", lambda: BytesIO(b"pixels"), 6)
        >>> file.folder, file.read()
        ('series', b'pixels')
    """

    name: str
    open: Callable[[], BinaryIO]
    size: int

    def read(self) -> bytes:
        """Read all bytes."""
        with self.open() as stream:
            return stream.read()

    @property
    def folder(self) -> str:
        """Folder of the file within the source; empty at the top."""
        return folder_of(self.name)


def folder_of(name: str) -> str:
    """Return the folder of a file within its source.

    Args:
        name: path within the source, with slashes or backslashes.

    Returns:
        The folder; empty at the top.

    Examples:
        >>> from medvit.io import folder_of
        >>> folder_of("study/series/001.dcm")
        'study/series'
    """
    return name.replace("\\", "/").rpartition("/")[0]


MACOS_WORDS = "file(s) that macOS adds beside others (._ files, .DS_Store)"
"""Words for entries that are skipped because macOS wrote them."""


def is_macos_file(name: str) -> bool:
    """Return True for a file that macOS adds to archives and foreign disks: it holds no image.

    Args:
        name: path of a file within its source.

    Returns:
        True for ``._`` files (AppleDouble), ``.DS_Store`` and all that lies in ``__MACOSX``.

    Examples:
        >>> from medvit.io import is_macos_file
        >>> is_macos_file("__MACOSX/._scan.nii.gz"), is_macos_file("scan.nii.gz")
        (True, False)
    """
    parts = name.replace("\\", "/").split("/")
    return parts[-1].startswith("._") or parts[-1] == ".DS_Store" or "__MACOSX" in parts


def without_digits(name: str) -> str:
    """Return a file's name without its digits; the slices of one export share it.

    Args:
        name: path within the source.

    Returns:
        The last component of the path, without digits.

    Examples:
        >>> from medvit.io import without_digits
        >>> without_digits("series/IM0012.dcm")
        'IM.dcm'
    """
    return re.sub(r"\d+", "", name.replace("\\", "/").rpartition("/")[2])


def printable_name(name: str) -> str:
    """Replace control characters and undecodable bytes of a file name by their numbers, for terminals and logs."""
    if name.isprintable():
        return name
    return "".join(c if c.isprintable() else f"<{ord(c):x}>" for c in name)


class UnreadableError(SourceError):
    """A file of a source that cannot be opened.

    Attributes:
        found, needed, remedy, option: parts of the message, as in ``MedvitError``.
        why: the reason, as ``medvit.io.unread_files`` words it.

    Examples:
        >>> from medvit.io import NOT_FETCHED, UnreadableError
        >>> error = UnreadableError("slice 7 without its content", "its content is needed", "Fetch it.", why=NOT_FETCHED)
        >>> error.why == NOT_FETCHED
        True
    """

    def __init__(
        self,
        found: str,
        needed: str = "",
        remedy: str | None = None,
        *,
        option: str | tuple[str, ...] = (),
        why: str = "",
    ) -> None:
        super().__init__(found, needed, remedy, option=option)
        self.why = why


def unreadable(name: str, error: OSError, path: str | None = None) -> UnreadableError:
    """Convert the operating system's refusal to open or read a file to an ``UnreadableError``."""
    why = why_lost(error, path is not None and os.path.islink(path))  # noqa: PTH114 - as the walk gives it
    if why == NOWHERE:
        found, needed = f"{name}, a link that leads nowhere", "the file itself is needed"
    elif why == VANISHED:
        found, needed = f"{name} gone since it was listed", "every file must stay while it is read"
    else:
        said = error.strerror or type(error).__name__
        found, needed = f"{name}, which cannot be read ({said})", "every file must be readable"
    return UnreadableError(found, needed, f"{next_step(why)}.", why=why)


def not_fetched(name: str) -> UnreadableError:
    """Create the error for a placeholder, whose content was not fetched."""
    found = f"{name}, a placeholder whose content was not fetched (git-annex, Git LFS, iCloud)"
    return UnreadableError(found, "its content is needed", f"{next_step(NOT_FETCHED)}.", why=NOT_FETCHED)


def _open(path: str) -> BinaryIO:
    try:
        return unpacked(open(path, "rb")) if is_packed(path) else open(path, "rb")
    except OSError as error:
        raise unreadable(printable_name(Path(path).name), error, path) from error


def is_packed(name: str) -> bool:
    """Return True for a DICOM file that is compressed by gzip as a whole."""
    return name.lower().endswith(".dcm.gz")


def unpacked(stream: BinaryIO) -> BinaryIO:
    """Unpack a file that gzip compressed, and close it.

    Raises:
        OSError: the file is damaged.
        TooLargeError: it unpacks to more than the memory limit.
    """
    with stream, gzip.GzipFile(fileobj=stream) as packed:
        most = memory_limit()
        try:
            content = packed.read(most + 1)
        except (EOFError, zlib.error) as error:
            raise OSError(errno.EIO, "the gzip file is cut off or damaged") from error
    check_memory(len(content), "a gzip file", "Unpack it first")
    return BytesIO(content)


def _unpacked_size(path: str, size: int) -> int:
    """Return the size of a file's content, in bytes; gzip states that of the unpacked content in its last four."""
    if not is_packed(path) or size < 18:
        return size
    with contextlib.suppress(OSError), open(path, "rb") as file:
        file.seek(-4, os.SEEK_END)
        return int.from_bytes(file.read(4), "little")
    return size


def one_file(path: Path) -> DicomFile:
    """Return a single file as a source."""
    return DicomFile(
        printable_name(path.name), partial(_open, str(path)), _unpacked_size(str(path), path.stat().st_size)
    )


def folder_files(path: Path, unread: Unread | None = None) -> Iterator[DicomFile]:
    """Yield every regular file below a folder, in a stable order; only the names of one folder at a time are kept in
    memory.

    Args:
        path: the folder.
        unread: collects the entries that are not read.
    """
    top = len(str(path / "_")) - 1
    for name, size in _walked(path, unread or Unread()):
        yield DicomFile(printable_name(name[top:]), partial(_open, name), _unpacked_size(name, size))


def files_below(path: Path, left_out: Callable[[Path], bool] | None = None) -> Iterator[Path]:
    """Yield the path of every regular file below a folder, in a stable order.

    Links to folders are followed once; pipes, devices and folders named ``.git`` are skipped.

    Args:
        path: the folder.
        left_out: returns True for a folder that is not to be entered.

    Returns:
        An iterator over paths.

    Raises:
        SourceError: the folder itself cannot be opened.

    Examples:
        >>> from pathlib import Path
        >>> from medvit.io import files_below
        >>> Path("study").mkdir()
        >>> Path("study/scan.nii").touch()
        >>> [path.name for path in files_below(Path("study"))]
        ['scan.nii']
    """
    return (Path(name) for name, _ in _walked(path, Unread(), left_out))


def _walked(path: Path, unread: Unread, left_out: Callable[[Path], bool] | None = None) -> Iterator[tuple[str, int]]:
    """Yield the path and size of every regular file below a folder.

    Links to folders are followed after all real folders are read. A link is skipped if its target was read before or
    contains the source. Pipes and devices are skipped, since reading them would block forever, and so are folders named
    ``.git``.
    """
    top, entered = len(str(path / "_")) - 1, EnteredFolders(str(path))
    folders, linked = [str(path)], deque[str]()
    while folders or linked:
        folder = folders.pop() if folders else linked.popleft()
        try:
            if not entered.enter(folder):
                unread.passed["link(s) to folders that are read by another name"] += 1
                continue
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            if folder == str(path):
                raise SourceError(
                    f"the folder {printable_name(Path(folder).name)}, which cannot be opened ({error.strerror})",
                    "every folder must be readable",
                    "Check its permissions.",
                ) from error
            said = error.strerror or type(error).__name__
            unread.lost.append((f"{printable_name(folder[top:])}/", f"folder(s) that cannot be opened ({said})"))
            continue
        if not entries and folder != str(path):
            unread.hollow.append(printable_name(folder[top:]))
        within = []
        for entry in entries:
            kind, size = _look(entry, unread, top)
            if kind == "file":
                yield entry.path, size
            elif kind and left_out is not None and left_out(Path(entry.path)):
                continue
            elif kind == "folder":
                within.append(entry.path)
            elif kind == "link":
                linked.append(entry.path)
        folders += reversed(within)


def _look(entry: os.DirEntry[str], unread: Unread, top: int) -> tuple[str, int]:
    """Return the kind of a folder's entry ("file", "folder", "link" to a folder, or empty for nothing to read) and a
    file's size in bytes.
    """
    try:
        mode = entry.stat()
    except OSError as error:
        unread.lost.append((printable_name(entry.path[top:]), why_lost(error, entry.is_symlink())))
        return "", 0
    if entry.is_dir():
        if entry.name == ".git":
            unread.passed["folder(s) of git's own files"] += 1
            return "", 0
        if entry.name == "__MACOSX":
            unread.passed["folder(s) that macOS adds to archives"] += 1
            return "", 0
        return "link" if entry.is_symlink() else "folder", 0
    if is_macos_file(entry.name):
        unread.passed[MACOS_WORDS] += 1
        return "", 0
    if is_special(mode.st_mode):
        unread.passed["pipe(s) or device(s)"] += 1
        unread.hollow.append(printable_name(entry.path[top:]))
        return "", 0
    return "file", mode.st_size


def dicomdir_files(path: Path, unread: Unread) -> list[DicomFile]:
    """Return the files that a DICOMDIR lists (PS3.10 8.6); record absent files in ``unread``.

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
            f"{path.name}, a DICOMDIR that cannot be read ({type(error).__name__})",
            "it must list the disc's files",
            "Give the folder it lies in instead.",
        ) from error
    found, folders = [], _Folders()
    for parts in wanted:
        parts = [parts] if isinstance(parts, str) else [str(part) for part in parts]
        name = printable_name("/".join(parts))
        if any(part in ("..", ".", "") or "/" in part or "\\" in part or ":" in part for part in parts):
            raise SourceError(
                f"a DICOMDIR that lists {name!r}, outside of its folder",
                "entries must stay inside",
                "Do not trust this disc: ask for another.",
            )
        full = folders.find(path.parent, parts)
        if full is None:
            unread.lost.append((name, LISTED))
        else:
            within = printable_name(str(full.relative_to(path.parent)))
            found.append(DicomFile(within, partial(_open, str(full)), full.stat().st_size))
    return found


class _Folders:
    """Case-insensitive look-up of paths; each folder is listed only once."""

    def __init__(self) -> None:
        self._names: dict[Path, dict[str, str]] = {}

    def find(self, folder: Path, parts: list[str]) -> Path | None:
        """Return the file at ``parts`` below a folder; None if it does not exist."""
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
