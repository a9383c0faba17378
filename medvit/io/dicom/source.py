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
    """Preflight of a DICOM folder, file, zip or DICOMDIR.

    Raises:
        SourceError: the zip or the DICOMDIR cannot be read or points outside of itself.
    """
    with open_preflight(source, progress) as found:
        return found


@contextmanager
def open_preflight(source: Path, progress: Progress | None = None) -> Iterator[Preflight]:
    """Yield the preflight of a source, whose files stay open while it is in use.

    Raises:
        SourceError: as ``run_preflight``.
    """
    with dicom_files(source) as (files, unread):
        yield inspect_files(files, progress, unread)


@contextmanager
def dicom_files(path: Path) -> Iterator[tuple[Iterable[DicomFile], Unread]]:
    """Yield the files of a source, open while in use, and the notes on those that cannot be read."""
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
        raise GeometryError(" ".join([str(error), *chosen.excluded])) from error
    return with_preflight_notes(scan, found, chosen)


def with_preflight_notes(scan: Scan, found: Preflight, chosen: VolumeChoice) -> Scan:
    """What was read with what preflight says of it, and of what lay beside it."""
    return replace(scan, notes=(*scan.notes, *chosen.notes), excluded=(*chosen.excluded, *scan.excluded))
