"""Files of a source that were not read: links that lead nowhere, files that vanished, cannot be opened or were not fetched."""

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
"""The step to take by what was lost."""

_SMALL = 2**15
"""Bytes that a placeholder of git-annex has at most."""

Lost = tuple[str, str]
"""A file's name within the source, and what happened to it: one of the reasons above."""


@dataclass
class Unread:
    """Parts of a source that were not read, collected while the source is walked.

    Attributes:
        lost: files, and folders that cannot be opened, any of which may be or hold an image.
        passed: counts of what was passed over since it holds no image of its own, by what it is.
        hollow: names of pipes, devices and empty folders; one that is named like the slices beside it stands for a slice.
        single: whether the source is one file that was given by itself, so that nothing beside it is expected.
    """

    lost: list[Lost] = field(default_factory=list)
    passed: Counter[str] = field(default_factory=Counter)
    hollow: list[str] = field(default_factory=list)
    single: bool = False


class EnteredFolders:
    """The folders that a walk has entered, by device and inode, so that links cannot form a circle.

    Args:
        top: where the walk begins; the folders above it count as entered, since a link to one of them leads round too.
    """

    def __init__(self, top: str | bytes) -> None:
        self._known: set[tuple[int, int]] = set()
        at = os.path.realpath(top)
        while (above := os.path.dirname(at)) != at:  # noqa: PTH120 - bytes, which Path does not take
            at = above
            self.enter(at)

    def enter(self, folder: str | bytes) -> bool:
        """Note a folder; return whether it had not been entered before.

        Raises:
            OSError: it is not there or cannot be looked at.
        """
        stated = os.stat(folder)  # noqa: PTH116 - bytes, which Path does not take
        identity = (stated.st_dev, stated.st_ino)
        new = identity not in self._known
        self._known.add(identity)
        return new


def why_lost(error: OSError, linked: bool) -> str:
    """Name what the system's refusal to open or read a file means.

    Args:
        error: the refusal.
        linked: whether the name is a link.
    """
    import errno

    if error.errno == errno.ELOOP or (error.errno in (errno.ENOENT, errno.ENOTDIR) and linked):
        return NOWHERE
    if error.errno in (errno.ENOENT, errno.ESTALE):
        return VANISHED
    return f"file(s) that cannot be read ({error.strerror or type(error).__name__})"


def is_special(mode: int) -> bool:
    """Tell a pipe, socket or device, on which reading may wait forever."""
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def is_placeholder(start: bytes, size: int) -> bool:
    """Recognise a placeholder: a small text in place of a file whose content was not fetched.

    Args:
        start: the file's first bytes.
        size: of the file.
    """
    if not 0 < size <= _SMALL:
        return False
    pointer = (
        start.startswith(b"version https://git-lfs.github.com/spec/") or b"annex/objects/" in start.split(b"\n")[0]
    )
    return pointer or (start.startswith(b"bplist00") and b"NSURL" in start)


def next_step(reason: str) -> str:
    """Give the step to take, without its full stop."""
    return _STEPS.get(reason, "Check the permissions and the disk")


def lost_words(lost: Iterable[Lost]) -> tuple[str, ...]:
    """Say how many files were lost beside a volume, one sentence for each reason; without their names, which may be a patient's."""
    counts = Counter(why for _, why in lost)
    return tuple(
        f"Not read: {count} {why}; they may be slices of this volume. {next_step(why)}."
        for why, count in counts.items()
    )
