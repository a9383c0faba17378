"""Files that clients send: of a kind that is taken, under a name of ours, read before they are believed."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import medvit
from medvit.io import IMAGE_SUFFIXES, zip_errors_as_source_errors, zip_files
from medvit_label.errors import RequestError

__all__ = ["IMAGES", "LABELS", "received", "require_image"]

IMAGES = (*IMAGE_SUFFIXES, ".zip", ".dcm")
"""Endings of images that are taken; a zip holds a DICOM series."""

LABELS = (".nii.gz", ".nii", ".seg.nrrd", ".nrrd", ".mha", ".png", ".dcm", ".bin")
"""Endings of labels that are taken; ``.bin`` are bare voxels, as OHIF sends them."""


@contextmanager
def received(name: str | None, stream: BinaryIO, kinds: tuple[str, ...], scratch: Path) -> Iterator[Path]:
    """An upload as a file in a folder of its own, gone when the block ends. Of the client's name only the ending is used.

    Raises:
        RequestError: an ending that is not taken, or a file of no bytes.
    """
    low = (name or "").lower()
    ending = next((kind for kind in sorted(kinds, key=len, reverse=True) if low.endswith(kind)), None)
    if ending is None:
        raise RequestError(
            f"Found an upload whose name ends in {Path(low).suffix[:12] or 'nothing'!r}; taken are {', '.join(kinds)}. Send one of these."
        )
    with tempfile.TemporaryDirectory(prefix="upload-", dir=scratch) as folder:
        path = Path(folder) / f"upload{ending}"
        with path.open("wb") as file:
            shutil.copyfileobj(stream, file)
        if path.stat().st_size == 0:
            raise RequestError(
                "Found an upload of 0 bytes; a complete file is needed. Save it again and send it again."
            )
        if ending == ".zip":
            with zip_errors_as_source_errors("upload.zip"), zipfile.ZipFile(path) as archive:
                zip_files(archive)
        yield path


def require_image(path: Path) -> None:
    """Refuse a file that cannot be opened as one image.

    Raises:
        SourceError: why not.
    """
    medvit.open_source(path)
