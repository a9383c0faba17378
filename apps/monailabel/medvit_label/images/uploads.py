"""Files that clients upload: checked for their type and stored under a name of the server."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import medvit
from medvit.io import zip_errors_as_source_errors, zip_files
from medvit_label.errors import RequestError
from medvit_label.images.source import SUFFIXES

__all__ = ["IMAGES", "LABELS", "require_image", "save_upload"]

IMAGES = (*SUFFIXES, ".dcm")
"""Suffixes of images that are accepted; a zip holds a DICOM series."""

LABELS = (".nii.gz", ".nii", ".seg.nrrd", ".nrrd", ".mha", ".png", ".dcm", ".bin")
"""Suffixes of labels that are accepted; ``.bin`` files hold bare voxels, as OHIF sends them."""


@contextmanager
def save_upload(name: str | None, stream: BinaryIO, kinds: tuple[str, ...], scratch: Path) -> Iterator[Path]:
    """Write an upload into a temporary folder, which is deleted when the block ends. Only the suffix of the client's
    file name is used.

    Raises:
        RequestError: the suffix is not accepted, or the file is empty.
    """
    low = (name or "").lower()
    ending = next((kind for kind in sorted(kinds, key=len, reverse=True) if low.endswith(kind)), None)
    if ending is None:
        raise RequestError(
            f"an upload whose name ends in {Path(low).suffix[:12] or 'nothing'!r}",
            f"accepted are {', '.join(kinds)}",
            "Send one of these.",
        )
    with tempfile.TemporaryDirectory(prefix="upload-", dir=scratch) as folder:
        path = Path(folder) / f"upload{ending}"
        with path.open("wb") as file:
            shutil.copyfileobj(stream, file)
        if path.stat().st_size == 0:
            raise RequestError("an upload of 0 bytes", "a complete file is needed", "Save it again and send it again.")
        if ending == ".zip":
            with zip_errors_as_source_errors("upload.zip"), zipfile.ZipFile(path) as archive:
                zip_files(archive)
        yield path


def require_image(path: Path) -> None:
    """Refuse a file that cannot be opened as one image.

    Raises:
        SourceError: the file cannot be opened.
    """
    medvit.open_source(path)
