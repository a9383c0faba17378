"""DICOM sources: a folder, file, zip or DICOMDIR, checked before one of its volumes is opened."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from medvit.errors import GeometryError
from medvit.io.dicom.preflight import Preflight, VolumeChoice, choose_volume, inspect_files, volume_and_part
from medvit.io.dicom.read import read_dicom
from medvit.io.files import DicomFile, dicomdir_files, folder_files, one_file
from medvit.io.scan import Scan
from medvit.io.unread_files import Unread
from medvit.io.zip_archive import zip_errors_as_source_errors, zip_files
from medvit.progress import Progress

__all__ = ["dicom_files", "open_preflight", "open_volume", "run_preflight", "with_preflight_notes"]


def run_preflight(source: Path, progress: Progress | None = None) -> Preflight:
    """Run the preflight of a DICOM folder, file, zip or DICOMDIR.

    Raises:
        SourceError: the zip or the DICOMDIR cannot be read, or refers to files outside of it.
    """
    with open_preflight(source, progress) as found:
        return found


@contextmanager
def open_preflight(source: Path, progress: Progress | None = None) -> Iterator[Preflight]:
    """Yield the preflight of a source, whose files stay open until the block ends.

    Raises:
        SourceError: as ``run_preflight``.
    """
    with dicom_files(source) as (files, unread):
        yield inspect_files(files, progress, unread)


@contextmanager
def dicom_files(path: Path) -> Iterator[tuple[Iterable[DicomFile], Unread]]:
    """Yield the files of a source, which stay open until the block ends, and the collection of files that cannot be
    read.
    """
    unread = Unread()
    if path.is_dir():
        yield folder_files(path, unread), unread
    elif zipfile.is_zipfile(path):
        with zip_errors_as_source_errors(path.name), zipfile.ZipFile(path) as archive:
            yield zip_files(archive, unread), unread
    elif path.name.upper() == "DICOMDIR":
        yield dicomdir_files(path, unread), unread
    else:
        unread.single = True
        yield [one_file(path)], unread


def open_volume(found: Preflight, series: str | None, on_irregular: str, where: str, progress: Progress) -> Scan:
    """Decode one volume of a preflight; the files must still exist.

    Args:
        found: the preflight of the volume's series, or of a whole source.
        series, on_irregular: as in ``open_source``.
        where: name of the source in messages.
        progress: shows the progress of reading; can cancel it.

    Raises:
        SourceError, GeometryError, ImageError, SelectionError: the volume cannot be used.
    """
    chosen = choose_volume(found, series, where, on_irregular)
    part = None if series in (None, chosen.volume.series) else volume_and_part(str(series))[1]
    try:
        scan = read_dicom(chosen.volume, on_irregular, part, progress)
    except GeometryError as error:  # the missing slice may be one that was set aside
        raise error.framed(after=" ".join(chosen.excluded)) from error
    return with_preflight_notes(scan, found, chosen)


def with_preflight_notes(scan: Scan, found: Preflight, chosen: VolumeChoice) -> Scan:
    """Return the scan with the preflight's notes on the volume and on the files beside it."""
    return replace(scan, notes=(*scan.notes, *chosen.notes), excluded=(*chosen.excluded, *scan.excluded))
