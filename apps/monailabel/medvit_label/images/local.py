"""The images of a project in a local folder: files, and DICOM series found by their headers. Nothing there is ever changed."""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import medvit
from medvit.io import IMAGE_SUFFIXES, PICTURE_SUFFIXES, files_below
from medvit.io.dicom.header import read_dataset
from medvit_label.errors import GoneError, RequestError, UnknownError

if TYPE_CHECKING:
    from medvit.io import Scan

__all__ = ["Image", "Images", "Listing", "LocalImages", "checked_name", "stem_of"]

_SUFFIXES = (*IMAGE_SUFFIXES, ".zip")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_NO_IMAGES = frozenset({"SEG", "RTSTRUCT", "RTPLAN", "RTDOSE", "SR", "PR", "KO", "REG", "DOC"})
_FRESH_S = 1.0
"""Seconds for which a listing of the folder is taken to be true."""


@dataclass(frozen=True)
class Image:
    """One image of the project.

    Attributes:
        id: what clients call it: the file's name without its ending, or the SeriesInstanceUID.
        path: what ``medvit.open_source`` takes.
        series: the SeriesInstanceUID, for DICOM.
        study: the StudyInstanceUID, for DICOM.
        modality: DICOM's Modality; None where the format does not say.
        geometry: for a NIfTI, "sform" or "qform" to take, as the project was started; None for the sform where it is stated.
    """

    id: str
    path: Path
    series: str | None = None
    study: str | None = None
    modality: str | None = None
    geometry: str | None = None

    def open(self) -> Scan:
        """Read the image, checked.

        Raises:
            MedvitError: as ``medvit.open_source``.
        """
        return medvit.open_source(self.path, self.series, geometry=self.geometry)

    @property
    def is_picture(self) -> bool:
        """Whether it is a PNG or JPEG."""
        return self.path.suffix.lower() in PICTURE_SUFFIXES

    @property
    def outside(self) -> bool:
        """True for an image outside the project: one of a session, or sent along with a request."""
        return self.id.startswith(("session ", "upload "))

    def state(self) -> str:
        """A word that changes when a file of the image is written anew, added or taken away."""
        files = sorted(files_below(self.path)) if self.path.is_dir() else [self.path]
        told = hashlib.sha256()
        for file in files:
            try:
                seen = file.stat()
            except OSError:  # taken away while we look
                continue
            told.update(f"{file.name} {seen.st_mtime_ns} {seen.st_size}\n".encode())
        return told.hexdigest()


class Listing:
    """What is there, looked for again when the last look is too old; safe to use from several threads.

    Args:
        look: finds the images, by id.
        fresh_s: seconds for which a look is taken to be true.
    """

    def __init__(self, look: Callable[[], dict[str, Image]], fresh_s: float) -> None:
        self._look, self._fresh_s = look, fresh_s
        self._lock = threading.Lock()
        self._found: dict[str, Image] = {}
        self._looked = 0.0

    def now(self) -> dict[str, Image]:
        """All images, by id."""
        with self._lock:
            if time.monotonic() - self._looked > self._fresh_s:
                self._found = self._look()
                self._looked = time.monotonic()
            return dict(self._found)

    def forget(self) -> None:
        """Look again next time."""
        self._looked = 0.0


class Images(Protocol):
    """The source of a project's images: a local folder or a DICOMweb service."""

    @property
    def keeps_segs(self) -> bool:
        """True where the SEG of a final label is stored there too."""
        ...

    def listed(self) -> dict[str, Image]:
        """All images, by id."""
        ...

    def find(self, name: str) -> Image:
        """The image of that id, ready to be opened."""
        ...

    def add(self, name: str, file: Path) -> str:
        """Take an uploaded file in; return its id."""
        ...

    def store(self, seg: Path) -> dict[str, Any]:
        """Store a label's DICOM SEG where the image came from; return what to remember of it."""
        ...


def stem_of(name: str) -> str:
    """A file's name without the ending that says its format."""
    low = name.lower()
    ending = next((suffix for suffix in sorted(_SUFFIXES, key=len, reverse=True) if low.endswith(suffix)), "")
    return name[: len(name) - len(ending)] if ending else name


def checked_name(name: str) -> str:
    """A name from a client that is to become a file's.

    Raises:
        RequestError: it could lead out of its folder, or no file may be called so.
    """
    if not _NAME.fullmatch(name) or ".." in name:
        raise RequestError(
            f"Found the name {name[:60]!r}; names are 1 to 128 letters, digits, '.', '_' or '-', without '..'. Choose another."
        )
    return name


class LocalImages:
    """A folder with images at any depth.

    Args:
        folder: where they lie.
        left_out: a folder within it that holds none (the labels).
        geometry: which form of NIfTI files is taken; see ``Image``.
    """

    keeps_segs = False

    def __init__(self, folder: Path, left_out: Path, geometry: str | None = None) -> None:
        self._folder, self._left_out, self._geometry = folder.resolve(), left_out.resolve(), geometry
        self._headers: dict[str, tuple[tuple[int, int], tuple[str, str, str] | None]] = {}
        self._listing = Listing(self._look, _FRESH_S)

    def listed(self) -> dict[str, Image]:
        """All images that are there now, by id."""
        return self._listing.now()

    def _look(self) -> dict[str, Image]:
        found: dict[str, Image] = {}
        seen: set[str] = set()
        for path in files_below(self._folder, self._holds_no_images):
            name = path.name
            if name.startswith("."):
                continue
            if name.lower().endswith(_SUFFIXES):
                identity = stem_of(str(path.relative_to(self._folder)))
                # scan.nii.gz beside scan.png: the second keeps its ending in its id
                identity = identity if identity not in found else str(path.relative_to(self._folder))
                nifti = name.lower().endswith((".nii", ".nii.gz"))
                found[identity] = Image(identity, path, geometry=self._geometry if nifti else None)
            else:
                seen.add(str(path))
                self._add_dicom(found, path)
        self._headers = {key: value for key, value in self._headers.items() if key in seen}
        return found

    def _holds_no_images(self, folder: Path) -> bool:
        return folder.name.startswith(".") or folder == self._left_out

    def _add_dicom(self, found: dict[str, Image], path: Path) -> None:
        header = self._header(path)
        if header is None:
            return
        series, study, modality = header
        known = found.get(series)
        folder = path.parent if known is None else Path(os.path.commonpath([known.path, path.parent]))
        found[series] = Image(series, folder, series, study, modality)

    def _header(self, path: Path) -> tuple[str, str, str] | None:
        """Series, study and modality of a DICOM image; None for anything else. Read again only if the file changed."""
        try:
            state = path.stat()
            stamp = (state.st_mtime_ns, state.st_size)
            known = self._headers.get(str(path))
            if known is None or known[0] != stamp:
                known = (stamp, _read_header(path))
                self._headers[str(path)] = known
            return known[1]
        except OSError:  # it vanished while we looked
            return None

    def find(self, name: str) -> Image:
        """The image of that id; an id is looked up and never becomes a path.

        Raises:
            UnknownError: no such image. GoneError: its file vanished.
        """
        image = self.listed().get(name)
        if image is None:
            raise UnknownError(
                f"Found no image {name[:80]!r} in the project; ask for one that is listed. See GET /datastore/?output=all."
            )
        if not image.path.exists():
            raise GoneError(
                f"Found that image {name[:80]!r} was taken out of the project's folder; put it back, or ask for another."
            )
        return image

    def add(self, name: str, file: Path) -> str:
        """Take an uploaded file in under a name of its own.

        Raises:
            RequestError: the name is none, or there is such an image; nothing is overwritten.
        """
        identity = checked_name(name)
        ending = file.name[len(stem_of(file.name)) :]
        target = self._folder / f"{identity}{ending}"
        if identity in self.listed() or target.exists():
            raise RequestError(
                f"Found that there is an image {identity!r} already; nothing is overwritten. Choose another name."
            )
        aside = target.with_name(f".{target.name}.part")
        aside.write_bytes(file.read_bytes())
        os.link(aside, target)  # unlike a rename, this fails if somebody was faster
        aside.unlink()
        self._listing.forget()
        return identity

    def store(self, seg: Path) -> dict[str, Any]:
        """A local project keeps its SEG with the label; nothing goes elsewhere."""
        return {}


def _read_header(path: Path) -> tuple[str, str, str] | None:
    tags = ["SeriesInstanceUID", "StudyInstanceUID", "Modality", "SOPClassUID"]
    try:
        with path.open("rb") as file:
            file.seek(128)
            if file.read(4) != b"DICM":
                return None
        header = read_dataset(path, stop_before_pixels=True, specific_tags=tags)
    except OSError:
        raise
    except Exception:
        return None  # damaged: no image to offer
    series, modality = str(header.get("SeriesInstanceUID", "")), str(header.get("Modality", ""))
    if not series or modality in _NO_IMAGES or "SOPClassUID" not in header:
        return None
    return series, str(header.get("StudyInstanceUID", "")), modality
