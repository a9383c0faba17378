"""Images in a local folder: image files, and DICOM series found by their headers. No original file is ever changed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from medvit.io import files_below
from medvit.io.dicom.header import read_dataset
from medvit_label.errors import GoneError, RequestError, UnknownError
from medvit_label.images.source import SUFFIXES, LabelImage, Listing, check_name, stem_of

__all__ = ["LocalImages"]

_NO_IMAGES = frozenset({"SEG", "RTSTRUCT", "RTPLAN", "RTDOSE", "SR", "PR", "KO", "REG", "DOC"})
_FRESH_S = 1.0
"""Seconds for which a listing of the folder is valid."""


class LocalImages:
    """Images in a folder, at any depth.

    Args:
        folder: folder of the images.
        left_out: folder within it that holds no images (the labels).
        geometry: form of NIfTI files to use; see ``LabelImage``.
    """

    keeps_segs = False

    def __init__(self, folder: Path, left_out: Path, geometry: str | None = None) -> None:
        self._folder, self._left_out, self._geometry = folder.resolve(), left_out.resolve(), geometry
        self._headers: dict[str, tuple[tuple[int, int], tuple[str, str, str] | None]] = {}
        self._listing = Listing(self._look, _FRESH_S)

    def listed(self) -> dict[str, LabelImage]:
        """Return all images by id."""
        return self._listing.current()

    def _look(self) -> dict[str, LabelImage]:
        found: dict[str, LabelImage] = {}
        seen: set[str] = set()
        for path in files_below(self._folder, self._holds_no_images):
            name = path.name
            if name.startswith("."):
                continue
            if name.lower().endswith(SUFFIXES):
                identity = stem_of(str(path.relative_to(self._folder)))
                # scan.nii.gz beside scan.png: the second file keeps its suffix in its id
                identity = identity if identity not in found else str(path.relative_to(self._folder))
                nifti = name.lower().endswith((".nii", ".nii.gz"))
                found[identity] = LabelImage(id=identity, path=path, geometry=self._geometry if nifti else None)
            else:
                seen.add(str(path))
                self._add_dicom(found, path)
        self._headers = {key: value for key, value in self._headers.items() if key in seen}
        return found

    def _holds_no_images(self, folder: Path) -> bool:
        return folder.name.startswith(".") or folder == self._left_out

    def _add_dicom(self, found: dict[str, LabelImage], path: Path) -> None:
        header = self._header(path)
        if header is None:
            return
        series, study, modality = header
        known = found.get(series)
        folder = path.parent if known is None else Path(os.path.commonpath([known.path, path.parent]))
        found[series] = LabelImage(id=series, path=folder, series=series, study=study, modality=modality)

    def _header(self, path: Path) -> tuple[str, str, str] | None:
        """Return series, study and modality of a DICOM image; None for other files. A file is read again only if it has
        changed.
        """
        try:
            state = path.stat()
            signature = (state.st_mtime_ns, state.st_size)
            known = self._headers.get(str(path))
            if known is None or known[0] != signature:
                known = (signature, _read_header(path))
                self._headers[str(path)] = known
            return known[1]
        except OSError:  # removed in the meantime
            return None

    def find(self, name: str) -> LabelImage:
        """Return the image of an id; the id is looked up and never used as a path.

        Raises:
            UnknownError: there is no such image. GoneError: its file was removed.
        """
        image = self.listed().get(name)
        if image is None:
            raise UnknownError(
                f"no image {name[:80]!r} in the project",
                "ask for one that is listed",
                "See GET /datastore/?output=all.",
            )
        if not image.path.exists():
            raise GoneError(
                f"that image {name[:80]!r} was removed from the project's folder", "put it back, or ask for another"
            )
        return image

    def add(self, name: str, file: Path) -> str:
        """Add an uploaded file under a name; return its id.

        Raises:
            RequestError: the name is not allowed, or such an image exists already.
        """
        identity = check_name(name)
        ending = file.name[len(stem_of(file.name)) :]
        target = self._folder / f"{identity}{ending}"
        if identity in self.listed() or target.exists():
            raise RequestError(
                f"that there is an image {identity!r} already", "nothing is overwritten", "Choose another name."
            )
        aside = target.with_name(f".{target.name}.part")
        aside.write_bytes(file.read_bytes())
        os.link(aside, target)  # unlike a rename, this fails if another request has just created the file
        aside.unlink()
        self._listing.forget()
        return identity

    def store(self, seg: Path) -> dict[str, Any]:
        """Return an empty dict, since a local project stores the SEG with the label only."""
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
        return None  # damaged files are not offered
    series, modality = str(header.get("SeriesInstanceUID", "")), str(header.get("Modality", ""))
    if not series or modality in _NO_IMAGES or "SOPClassUID" not in header:
        return None
    return series, str(header.get("StudyInstanceUID", "")), modality
