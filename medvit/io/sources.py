"""Opening a source: a DICOM folder or file, a zip, NIfTI, NRRD, MetaImage, PNG or JPEG."""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from medvit.errors import ImageError, MedvitError, SourceError
from medvit.io.dicom import DicomFile, choose_series, group_series, read_series
from medvit.io.images import IMAGE_SUFFIXES, read_image
from medvit.io.scan import Scan
from medvit.progress import Progress

if TYPE_CHECKING:
    from monai.data import MetaTensor

__all__ = ["open_source"]

_LARGEST_ENTRY = 4 * 2**30
"""Bytes one entry may unpack to; it is read in memory."""

_LARGEST_ZIP = 32 * 2**30
"""Bytes a zip may unpack to; more is a damaged or hostile archive."""


def open_source(
    source: str | os.PathLike[str] | MetaTensor | Scan, series: str | None = None, progress: Progress | None = None
) -> Scan:
    """Open anything medvit reads as one checked image.

    Args:
        source: a folder with DICOM files (walked recursively), a DICOM file, a zip of either, an image file, or a
            MetaTensor (channel, i, j, k) with its affine.
        series: number or SeriesInstanceUID, where a source holds several series.
        progress: told how far reading is.

    Raises:
        SourceError: nothing usable there; GeometryError, ImageError, SelectionError: why it cannot be used.
    """
    progress = progress or Progress()
    if isinstance(source, Scan):
        return source.check()
    if not isinstance(source, (str, os.PathLike)):
        return _from_tensor(source).check()
    path = Path(source)
    if not path.exists():
        raise SourceError(f"Found nothing at {path}; a file or folder is needed. Check the path.")
    if path.is_dir():
        return _from_files(_folder(path), path.name or str(path), series, progress).check()
    if zipfile.is_zipfile(path):
        return _from_zip(path, series, progress).check()
    if path.name.lower().endswith(IMAGE_SUFFIXES):
        return read_image(path).check()
    return _from_files([DicomFile(path.name, partial(_read, path))], path.name, series, progress).check()


def _from_tensor(image: MetaTensor) -> Scan:
    affine = getattr(image, "affine", None)
    if affine is None:
        raise SourceError(
            f"Found a {type(image).__name__}; a path or a MetaTensor with its affine is needed. Wrap the array in MetaTensor."
        )
    array = np.asarray(image, dtype=np.float32)
    if array.ndim not in (3, 4) or array.shape[0] != 1:
        raise ImageError(
            f"Found a MetaTensor of shape {tuple(array.shape)}; (1, i, j, k) is needed. Add the channel axis first."
        )
    return Scan(array, np.asarray(affine, dtype=np.float64), "array")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SourceError(
            f"Found {path.name}, which cannot be opened ({error.strerror}); every file must be readable. "
            "Check its permissions."
        ) from error


def _folder(path: Path) -> list[DicomFile]:
    files = []
    for folder, _, names in os.walk(path):
        for name in sorted(names):
            full = Path(folder) / name
            if full.is_file():
                files.append(DicomFile(str(full.relative_to(path)), partial(_read, full)))
    if not files:
        raise SourceError(f"Found no files in {path}; a folder with one DICOM series is needed. Check the export.")
    return files


def _from_files(files: list[DicomFile], where: str, wanted: str | None, progress: Progress) -> Scan:
    found, notes = group_series(files, progress)
    if not found:
        images = [f.name for f in files if f.name.lower().endswith(IMAGE_SUFFIXES)]
        hint = f" Give one of its image files instead, for example {images[0]}." if images else " Check the export."
        raise SourceError(f"Found no DICOM images among {len(files)} file(s) in {where}; one series is needed.{hint}")
    scan = read_series(choose_series(found, wanted), progress)
    return replace(scan, notes=(*scan.notes, *notes))


def _from_zip(path: Path, wanted: str | None, progress: Progress) -> Scan:
    """Read a zip without unpacking it, except for a single image file."""
    with _sound_zip(path.name), zipfile.ZipFile(path) as archive:
        entries = [entry for entry in archive.infolist() if not entry.is_dir()]
        _check_entries(entries)
        if not entries:
            raise SourceError(f"Found an empty zip ({path.name}); a DICOM series or one image file is needed.")
        if len(entries) == 1 and entries[0].filename.lower().endswith(IMAGE_SUFFIXES):
            return _image_from_zip(archive, entries[0])
        files = [DicomFile(entry.filename, partial(archive.read, entry)) for entry in entries]
        return _from_files(files, path.name, wanted, progress)


@contextmanager
def _sound_zip(name: str) -> Iterator[None]:
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


def _check_entries(entries: list[zipfile.ZipInfo]) -> None:
    for entry in entries:
        parts = PurePosixPath(entry.filename.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts or ":" in parts.parts[0]:
            raise SourceError(
                f"Found the entry {entry.filename!r} in the zip, which points outside of it; entries must stay inside. "
                "Do not trust this archive: ask for another."
            )
    largest = max((entry.file_size for entry in entries), default=0)
    if largest > _LARGEST_ENTRY:
        raise SourceError(
            f"Found an entry of {largest / 2**30:.0f} GiB in the zip; at most {_LARGEST_ENTRY // 2**30} are taken. Unpack it first."
        )
    total = sum(entry.file_size for entry in entries)
    if total > _LARGEST_ZIP:
        raise SourceError(
            f"Found a zip that unpacks to {total / 2**30:.0f} GiB; at most {_LARGEST_ZIP // 2**30} are taken. Split it."
        )


def _image_from_zip(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Scan:
    with tempfile.TemporaryDirectory(prefix="medvit-") as folder:
        target = Path(folder) / PurePosixPath(entry.filename).name
        with archive.open(entry) as packed, target.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked)
        return read_image(target)
