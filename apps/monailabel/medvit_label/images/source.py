"""Images of a project, and the protocol of their source: a local folder or a DICOMweb service."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import medvit
from medvit.io import IMAGE_SUFFIXES, PICTURE_SUFFIXES, files_below
from medvit_label.errors import RequestError

if TYPE_CHECKING:
    from medvit.io import Scan

__all__ = ["SUFFIXES", "ImageSource", "LabelImage", "Listing", "check_name", "stem_of"]

SUFFIXES = (*(suffix for suffix in IMAGE_SUFFIXES if suffix != ".hdr"), ".zip")
"""Suffixes of image files; a zip holds a DICOM series. Images in two files are not offered, as a client fetches one."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, kw_only=True)
class LabelImage:
    """One image of the project.

    Attributes:
        id: name of the file without its suffix, or the SeriesInstanceUID.
        path: file or folder, suitable for ``medvit.open_source``.
        series: SeriesInstanceUID, for DICOM.
        study: StudyInstanceUID, for DICOM.
        modality: Modality, for DICOM.
        geometry: for a NIfTI file, the form to use ("sform" or "qform") by the project's settings; None for the sform
            if there is one.
    """

    id: str
    path: Path
    series: str | None = None
    study: str | None = None
    modality: str | None = None
    geometry: str | None = None

    def open(self) -> Scan:
        """Read and check the image.

        Raises:
            MedvitError: see ``medvit.open_source``.
        """
        return medvit.open_source(self.path, self.series, geometry=self.geometry)

    @property
    def is_picture(self) -> bool:
        """True for a picture: PNG, JPEG, TIFF and others."""
        return self.path.suffix.lower() in PICTURE_SUFFIXES

    @property
    def outside(self) -> bool:
        """True for an image outside the project: one of a session, or one sent with a request."""
        return self.id.startswith(("session ", "upload "))

    def state(self) -> str:
        """Return a hash that changes when a file of the image is changed, added or removed."""
        files = sorted(files_below(self.path)) if self.path.is_dir() else [self.path]
        digest = hashlib.sha256()
        for file in files:
            try:
                found = file.stat()
            except OSError:  # removed in the meantime
                continue
            digest.update(f"{file.name} {found.st_mtime_ns} {found.st_size}\n".encode())
        return digest.hexdigest()


class Listing:
    """A list of images that is updated when it is too old; safe to use from several threads.

    Args:
        look: function that finds the images, by id.
        fresh_s: seconds for which a list is valid.
    """

    def __init__(self, look: Callable[[], dict[str, LabelImage]], fresh_s: float) -> None:
        self._look, self._fresh_s = look, fresh_s
        self._lock = threading.Lock()
        self._found: dict[str, LabelImage] = {}
        self._looked = 0.0

    def current(self) -> dict[str, LabelImage]:
        """Return all images by id."""
        with self._lock:
            if time.monotonic() - self._looked > self._fresh_s:
                self._found = self._look()
                self._looked = time.monotonic()
            return dict(self._found)

    def forget(self) -> None:
        """Update the list at the next use."""
        self._looked = 0.0


class ImageSource(Protocol):
    """The source of a project's images: a local folder or a DICOMweb service."""

    @property
    def keeps_segs(self) -> bool:
        """True if the source stores the SEG of a final label too."""
        ...

    def listed(self) -> dict[str, LabelImage]:
        """Return all images by id."""
        ...

    def find(self, name: str) -> LabelImage:
        """Return the image of an id, ready to be opened."""
        ...

    def add(self, name: str, file: Path) -> str:
        """Add an uploaded file; return its id."""
        ...

    def store(self, seg: Path) -> dict[str, Any]:
        """Store a label's DICOM SEG at the source of its image; return facts to store with the label."""
        ...


def stem_of(name: str) -> str:
    """Return a file's name without the suffix of its format."""
    low = name.lower()
    ending = next((suffix for suffix in sorted(SUFFIXES, key=len, reverse=True) if low.endswith(suffix)), "")
    return name[: len(name) - len(ending)] if ending else name


def check_name(name: str) -> str:
    """Return a name from a client if it is safe as a file's name.

    Raises:
        RequestError: the name is not safe; it could, for example, lead out of its folder.
    """
    if not _NAME.fullmatch(name) or ".." in name:
        raise RequestError(
            f"the name {name[:60]!r}",
            "names are 1 to 128 letters, digits, '.', '_' or '-', without '..'",
            "Choose another.",
        )
    return name
