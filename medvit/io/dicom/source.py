"""DICOM sources: a folder, file, zip or DICOMDIR, checked before one of its volumes is opened."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from medvit.errors import GeometryError
from medvit.io.dicom.preflight import Chosen, Preflight, choose_volume, preflight, volume_and_part
from medvit.io.dicom.read import read_dicom
from medvit.io.files import DicomFile, folder_files, listed_files, one_file
from medvit.io.scan import Scan
from medvit.io.unread_files import Unread
from medvit.io.zip_archive import sound_zip, zip_files
from medvit.progress import Progress

__all__ = ["dicom_files", "look", "noted", "open_found"]


def look(source: Path, progress: Progress | None = None) -> Preflight:
    """Preflight of a DICOM folder, file, zip or DICOMDIR.

    Raises:
        SourceError: the zip or the DICOMDIR cannot be read or points outside of itself.
    """
    with dicom_files(source) as (files, unread):
        return preflight(files, progress, unread)


@contextmanager
def dicom_files(path: Path) -> Iterator[tuple[Iterable[DicomFile], Unread]]:
    """Yield the files of a source, open while in use, and the notes on those that cannot be read."""
    unread = Unread()
    if path.is_dir():
        yield folder_files(path, unread), unread
    elif zipfile.is_zipfile(path):
        with sound_zip(path.name), zipfile.ZipFile(path) as archive:
            yield zip_files(archive, unread), unread
    elif path.name.upper() == "DICOMDIR":
        yield listed_files(path, unread), unread
    else:
        unread.single = True
        yield [one_file(path)], unread


def open_found(found: Preflight, series: str | None, on_irregular: str, where: str, progress: Progress) -> Scan:
    """One volume of what preflight found, decoded; the files it names must still be there.

    Args:
        found: all that may belong to the volume: its series, or a whole source.
        series, on_irregular: as ``open_source`` takes them.
        where: what a message calls the source.
        progress: told how far reading is.

    Raises:
        SourceError, GeometryError, ImageError, SelectionError: why it cannot be used.
    """
    chosen = choose_volume(found, series, where, on_irregular)
    part = None if series in (None, chosen.volume.series) else volume_and_part(str(series))[1]
    try:
        scan = read_dicom(chosen.volume, on_irregular, part, progress)
    except GeometryError as error:  # a slice that was set aside may be the one that is missed
        raise GeometryError(" ".join([str(error), *chosen.set_aside])) from error
    return noted(scan, found, chosen)


def noted(scan: Scan, found: Preflight, chosen: Chosen) -> Scan:
    """What was read with what preflight says of it, and of what lay beside it."""
    return replace(scan, notes=(*scan.notes, *chosen.notes), set_aside=(*chosen.set_aside, *scan.set_aside))
