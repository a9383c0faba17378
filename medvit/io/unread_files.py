"""Files of a source that could not be read, with the reasons: broken links, vanished files, missing permissions,
content not fetched.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

__all__ = [
    "HOLLOW",
    "EnteredFolders",
    "Lost",
    "Unread",
    "is_placeholder",
    "is_special",
    "lost_words",
    "next_step",
    "why_lost",
]

NOWHERE = "link(s) that lead nowhere"
VANISHED = "file(s) that vanished while they were read"
NOT_FETCHED = "placeholder(s) whose content was not fetched (git-annex, Git LFS, iCloud)"
NAMED_ALIKE = "file(s) or folder(s) that are named like the slices and are empty or not DICOM"
HOLLOW = "a pipe, a device or an empty folder, named like the files beside it"
LISTED = "file(s) that the DICOMDIR lists and that are not there"

_FETCH = "Fetch them (datalad get, git annex get, git lfs pull), or copy the whole series again"
_STEPS = {
    NOWHERE: _FETCH,
    NOT_FETCHED: _FETCH,
    VANISHED: "Run again when nothing writes to the source",
    NAMED_ALIKE: "Copy the whole series again",
    LISTED: "Copy the whole disc again",
}
"""Remedy for each reason."""

_SMALL = 2**15
"""Largest size of a git-annex placeholder, in bytes."""

Lost = tuple[str, str]
"""Name of a file within the source, and the reason why it was not read: one of the constants above or a text of
``why_lost``.
"""


@dataclass
class Unread:
    """Parts of a source that were not read, collected while its folders are walked.

    Attributes:
        lost: files and folders that cannot be opened; each may be, or contain, an image.
        passed: number of skipped entries that contain no image of their own, by kind of entry.
        hollow: names of pipes, devices and empty folders; an entry named like the slices beside it may replace a slice.
        single: True where the source is one file given by itself, so that no files are expected beside it.

    Examples:
        >>> from medvit.io import NOT_FETCHED, Unread
        >>> unread = Unread()
        >>> unread.lost.append(("series/007.dcm", NOT_FETCHED))
        >>> len(unread.lost)
        1
    """

    lost: list[Lost] = field(default_factory=list)
    passed: Counter[str] = field(default_factory=Counter)
    hollow: list[str] = field(default_factory=list)
    single: bool = False


class EnteredFolders:
    """The folders that a walk has entered, by device and inode; they stop links from forming an endless circle.

    Args:
        top: the folder in which the walk begins. The folders above it count as entered, since a link to one of them
            would make the walk endless too.

    Examples:
        >>> from medvit.io import EnteredFolders
        >>> folders = EnteredFolders(".")
        >>> folders.enter("."), folders.enter(".")
        (True, False)
    """

    def __init__(self, top: str | bytes) -> None:
        self._known: set[tuple[int, int]] = set()
        at = os.path.realpath(top)
        while (above := os.path.dirname(at)) != at:  # noqa: PTH120 - bytes, which Path does not take
            at = above
            self.enter(at)

    def enter(self, folder: str | bytes) -> bool:
        """Record a folder; return True if the walk has not entered it before.

        Raises:
            OSError: the folder does not exist or cannot be accessed.
        """
        stated = os.stat(folder)  # noqa: PTH116 - bytes, which Path does not take
        identity = (stated.st_dev, stated.st_ino)
        new = identity not in self._known
        self._known.add(identity)
        return new


def why_lost(error: OSError, linked: bool) -> str:
    """Return the reason for which the operating system refused to open or read a file.

    Args:
        error: the exception of the operating system.
        linked: True if the name is a symbolic link.

    Returns:
        One of the reasons of this module, or a text with the system's own words.

    Examples:
        >>> from medvit.io import why_lost
        >>> why_lost(PermissionError(13, "Permission denied"), linked=False)
        'file(s) that cannot be read (Permission denied)'
    """
    import errno

    if error.errno == errno.ELOOP or (error.errno in (errno.ENOENT, errno.ENOTDIR) and linked):
        return NOWHERE
    if error.errno in (errno.ENOENT, errno.ESTALE):
        return VANISHED
    return f"file(s) that cannot be read ({error.strerror or type(error).__name__})"


def is_special(mode: int) -> bool:
    """Return True for a pipe, socket or device, on which reading may block forever."""
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def is_placeholder(start: bytes, size: int) -> bool:
    """Return True for a placeholder: a small text file in place of a file whose content was not fetched.

    Args:
        start: the first bytes of the file.
        size: its size in bytes.
    """
    if not 0 < size <= _SMALL:
        return False
    pointer = (
        start.startswith(b"version https://git-lfs.github.com/spec/") or b"annex/objects/" in start.split(b"\n")[0]
    )
    return pointer or (start.startswith(b"bplist00") and b"NSURL" in start)


def next_step(reason: str) -> str:
    """Return the remedy for a reason, without its full stop."""
    return _STEPS.get(reason, "Check the permissions and the disk")


def lost_words(lost: Iterable[Lost]) -> tuple[str, ...]:
    """Count the files that were lost beside a volume; return one sentence for each reason.

    The sentences omit the names of files, which may contain a patient's name.
    """
    counts = Counter(why for _, why in lost)
    return tuple(
        f"Not read: {count} {why}; they may be slices of this volume. {next_step(why)}."
        for why, count in counts.items()
    )
