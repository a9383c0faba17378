"""Records of the files in an archive, made from their headers and kept from run to run."""

from __future__ import annotations

import json
import os
import re
import stat
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import lru_cache, partial
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from medvit.cli import command_line_words
from medvit.errors import MedvitError, SourceError
from medvit.io import (
    HOLLOW,
    IMAGE_SUFFIXES,
    NOT_FETCHED,
    DicomFile,
    Unread,
    UnreadableError,
    folder_of,
    is_packed_image,
    why_lost,
    without_digits,
    zip_files,
)
from medvit.io.dicom.header import DamagedError, Identity, PlaneHeader, read_planes
from medvit.io.dicom.preflight import series_key

__all__ = ["LAYOUT", "Record", "Want", "dicom_file", "planes_of", "read_all", "without_values"]

_ZIP = b"PK\x03\x04"
_SERIES = re.compile(rb"\x20\x00\x0e\x00(?:UI)?(?:..)(?:\x00\x00)?([0-9.]{8,64})", re.DOTALL)
"""Pattern of a SeriesInstanceUID (0020,000E) in a little-endian file, with explicit or implicit VR."""
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
_HEAD = 2**16
_FIELDS = tuple(f.name for f in fields(PlaneHeader))[1:]
"""Fields of ``PlaneHeader`` without its first, the file, in the order of a record."""

LAYOUT = " ".join(_FIELDS)
"""Fields of a plane as stored in a record; a catalogue with another layout is read again."""

_TUPLES = tuple(place for place, f in enumerate(fields(PlaneHeader)[1:]) if str(f.type).startswith("tuple"))
"""Positions of the fields that hold tuples, which JSON returns as lists."""

_ORDER, _PATIENT = _FIELDS.index("order"), _FIELDS.index("patient")


@dataclass(frozen=True, slots=True)
class Want:
    """A file to read.

    Attributes:
        number: number of the file for the caller.
        path: path in bytes.
        size: bytes.
    """

    number: int
    path: bytes
    size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """Record of a file or of an entry of a zip.

    Attributes:
        kind: "planes" (a DICOM image), "object" (DICOM, no image), "damaged", "image" (a file of another format), "zip",
            "other", "unreadable", "missing" (a link that leads nowhere, a placeholder whose content was not fetched).
        series: key that the planes of one series share.
        detail: kind of object, or the reason for damage; never a value of the header.
        planes: JSON of the planes.
        patient: JSON of the patient's identities in the planes.
        entry: name within a zip; empty for a file.
        size: bytes.
    """

    kind: str
    series: str = ""
    detail: str = ""
    planes: str = ""
    patient: str = ""
    entry: str = ""
    size: int = 0


def without_values(text: str) -> str:
    """Replace the quoted parts of a message, since a damaged header may have a name where a number belongs."""
    return _QUOTED.sub("'...'", text)


def read_all(wants: list[Want]) -> list[tuple[int, list[Record]]]:
    """Read files and return their records: one for each file; for a zip, one for itself and one for each of its
    entries.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [(want.number, _read(want)) for want in wants]


def _read(want: Want) -> list[Record]:
    path = Path(os.fsdecode(want.path))
    try:
        if path.name.lower().endswith(IMAGE_SUFFIXES):
            return [Record(kind="image", size=want.size)]
        with _regular(path) as stream:
            if stream.read(len(_ZIP)) == _ZIP:
                return _zip(path, want.size)
            stream.seek(0)
            once = [stream]  # the stream is reused, because opening is the slow step on a network disk
            return [_record(DicomFile("f", lambda: once.pop() if once else _regular(path), want.size))]
    except OSError as error:
        return [Record(kind="unreadable", detail=why_lost(error, path.is_symlink()), size=want.size)]
    except Exception as error:  # any fault that a file causes in pydicom affects only that file
        return [Record(kind="damaged", detail=f"its header cannot be read: {type(error).__name__}", size=want.size)]


def _regular(path: Path) -> BinaryIO:
    """Open a file for reading; refuse anything but a plain file, since reading from a pipe would wait forever."""
    stream = path.open("rb")
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise OSError(0, "not a plain file")
    return stream


def _record(file: DicomFile, entry: str = "") -> Record:
    try:
        found = read_planes(file)
    except DamagedError as error:
        with file.open() as stream:
            match = _SERIES.search(stream.read(_HEAD))
        series = match[1].decode().strip("\0") if match else ""
        return Record(kind="damaged", series=series, detail=without_values(str(error)), entry=entry, size=file.size)
    except UnreadableError as error:
        kind = "missing" if error.why == NOT_FETCHED else "unreadable"
        return Record(kind=kind, detail=error.why, entry=entry, size=file.size)
    if found is None:
        said = "empty" if not file.size else ""
        return Record(kind="other", detail=said, entry=entry, size=file.size)
    if isinstance(found, str):
        return Record(kind="object", detail=found[:64], entry=entry, size=file.size)
    if not found:
        return Record(kind="damaged", detail="it states no frames", entry=entry, size=file.size)
    rows = json.dumps([[getattr(plane, name) for name in _FIELDS] for plane in found])
    patient = json.dumps(sorted({plane.patient for plane in found}))
    return Record(kind="planes", series=series_key(found[0]), planes=rows, patient=patient, entry=entry, size=file.size)


def _zip(path: Path, size: int) -> list[Record]:
    try:
        if is_packed_image(path):
            return [Record(kind="image", size=size)]
        with zipfile.ZipFile(path) as archive:
            unread = Unread()
            found = [_record(DicomFile("f", file.open, file.size), file.name) for file in zip_files(archive, unread)]
            found += [Record(kind="missing", detail=why, entry=name) for name, why in unread.lost]
            alike = {(folder_of(r.entry), without_digits(r.entry)) for r in found if r.kind == "planes"}
            hollow = [name for name in unread.hollow if (folder_of(name), without_digits(name)) in alike]
            found += [Record(kind="other", detail=HOLLOW, entry=name) for name in hollow]
    except MemoryError:
        raise
    except Exception as error:  # our own error, or any fault that a damaged or encrypted archive causes in zipfile
        said = f"a damaged or encrypted zip: {type(error).__name__}"
        if isinstance(error, MedvitError):
            said = error.headline(command_line_words)
        return [Record(kind="damaged", detail=without_values(said).replace(path.name, "it"), size=size)]
    if not any(record.kind in ("planes", "object", "damaged", "missing") for record in found):
        return [Record(kind="other", size=size)]
    return [Record(kind="zip", size=size), *found]


def planes_of(content: str, file: DicomFile) -> Iterator[PlaneHeader]:
    """Yield the planes that a record holds, as planes of the given file."""
    for row in json.loads(content):
        for place in _TUPLES:
            if row[place] is not None:
                row[place] = tuple(row[place])
        row[_ORDER], row[_PATIENT] = tuple(map(tuple, row[_ORDER])), Identity(*row[_PATIENT])
        yield PlaneHeader(file=file, **dict(zip(_FIELDS, row, strict=True)))


def dicom_file(alias: str, path: bytes, entry: str, size: int) -> DicomFile:
    """Return a file, or an entry of a zip, in a form that can be sent to another process."""
    name = os.fsdecode(path)
    return DicomFile(alias, partial(_open_entry, name, entry) if entry else partial(_open_plain, name, alias), size)


def _open_plain(path: str, alias: str) -> BinaryIO:
    try:
        return _regular(Path(path))
    except OSError as error:
        raise SourceError(
            f"{alias}, which cannot be opened ({error.strerror})",
            "every file must be readable",
            "Check its permissions.",
        ) from error


def _open_entry(path: str, entry: str) -> BinaryIO:
    modified = Path(path).stat().st_mtime_ns
    return BytesIO(_archive(path, modified).read(entry))


@lru_cache(maxsize=2)
def _archive(path: str, modified: int) -> zipfile.ZipFile:
    """Open a zip and keep it open; otherwise its list of entries would be read again for each slice."""
    return zipfile.ZipFile(path)
