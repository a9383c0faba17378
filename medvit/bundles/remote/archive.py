"""Safe unpacking of a bundle's zip of any origin: all entries are checked before the first is written."""

from __future__ import annotations

import json
import shutil
import stat
import unicodedata
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Any

from medvit.errors import FetchError
from medvit.progress import Progress

__all__ = ["is_bundle_archive", "read_metadata", "unpack"]

_MARK = "configs/metadata.json"

_MOST_BYTES = 2 << 30
_MOST_FILES = 2000
_MOST_METADATA = 4 << 20
_MOST_RATIO = 200
"""Largest ratio of unpacked to packed bytes: text packs tenfold, weights hardly, a zip bomb a thousandfold."""

_KINDS = frozenset(" .json .md .txt .csv .yml .yaml .png .jpg .jpeg .svg .safetensors".split(" "))
"""File extensions that a bundle may contain; no programs, libraries or pickles."""

_DEVICES = frozenset(["CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in range(1, 10))])
"""Names that are devices on Windows, with any extension."""

_DAMAGED = (zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, EOFError, NotImplementedError, ValueError)


def _refuse(found: str) -> FetchError:
    return FetchError(
        f"{found} in the bundle's archive",
        "only plain files under one folder are unpacked, and nothing was installed",
        "Get the archive from another place.",
    )


def is_bundle_archive(path: Path) -> bool:
    """Return True if a file is a zip that contains a bundle (a torch checkpoint is also a zip, but contains none)."""
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name == _MARK or name.endswith("/" + _MARK) for name in archive.namelist())
    except zipfile.BadZipFile:
        return False


def unpack(archive: Path, folder: Path, name: str, progress: Progress) -> None:
    """Unpack a bundle's zip to a new folder.

    Args:
        archive: the zip, with its files at the top level or in one folder called ``name``.
        folder: the folder to create; incomplete if this raises, and then to be deleted.
        name: name of the bundle.
        progress: shows the number of unpacked files; can cancel.

    Raises:
        FetchError: the zip is damaged, contains another bundle, or has an entry that is not a plain file within the
            folder.
    """
    try:
        with zipfile.ZipFile(archive) as content:
            targets = _targets(content, name)
            for done, (entry, target) in enumerate(targets.items()):
                progress.report("unpack", done, len(targets))
                place = folder.joinpath(*target.parts)
                place.parent.mkdir(parents=True, exist_ok=True)
                with content.open(entry) as source, place.open("xb") as file:
                    shutil.copyfileobj(source, file, 1 << 20)
    except _DAMAGED as error:
        raise _damaged(error) from error


def read_metadata(archive: Path, name: str) -> dict[str, Any]:
    """Read metadata.json from a bundle's zip, without unpacking.

    Raises:
        FetchError: as ``unpack``, or the metadata is not a JSON object.
    """
    try:
        with zipfile.ZipFile(archive) as content:
            (entry,) = (e for e, target in _targets(content, name).items() if target == PurePosixPath(_MARK))
            metadata = json.loads(content.read(entry)) if entry.file_size < _MOST_METADATA else None
    except _DAMAGED as error:
        raise _damaged(error) from error
    if not isinstance(metadata, dict):
        raise _refuse(f"{_MARK}, which is no JSON object of usual size,")
    return metadata


def _damaged(error: Exception) -> FetchError:
    return FetchError(
        f"a damaged archive ({str(error) or type(error).__name__})",
        "a whole zip is needed, and nothing was installed",
        "Get it again.",
    )


def _targets(content: zipfile.ZipFile, name: str) -> dict[zipfile.ZipInfo, PurePosixPath]:
    """Return the path of each file below the bundle's folder."""
    entries = content.infolist()
    if len(entries) > _MOST_FILES:
        raise _refuse(f"{len(entries)} entries")
    paths = {entry: _checked(entry) for entry in entries}
    files = {entry: path for entry, path in paths.items() if not entry.is_dir()}
    size = sum(entry.file_size for entry in files)
    if size > _MOST_BYTES:
        raise _refuse(f"{size >> 20} MiB of content")
    for entry in files:
        if entry.file_size > 1 << 20 and entry.file_size > _MOST_RATIO * max(1, entry.compress_size):
            raise _refuse(f"an entry that unpacks to {entry.file_size // max(1, entry.compress_size)} times its size")
    _refuse_clashes(list(paths.values()), list(files.values()))
    if PurePosixPath(_MARK) in files.values():
        return files
    tops = {path.parts[0] for path in files.values()}
    if len(tops) != 1 or PurePosixPath(*tops, _MARK) not in files.values():
        raise _refuse(f"no {_MARK} at the top or in one folder")
    if tops != {name}:
        raise FetchError(
            f"the bundle {min(tops)!r} in the archive, where {name!r} was asked for",
            "they must be the same",
            f"Ask for it by its name: {{medvit.bundles.remote.fetch()=FetchRequest(name='{min(tops)}')}}.",
            option="medvit.bundles.remote.fetch()",
        )
    return {entry: path.relative_to(name) for entry, path in files.items()}


def _checked(entry: zipfile.ZipInfo) -> PurePosixPath:
    # zipfile shortens filename at a NUL byte; orig_filename is the name as stored
    raw = entry.orig_filename
    path = PurePosixPath(raw)
    mode = entry.external_attr >> 16
    shown = repr(raw[:80])
    if not raw or any(ord(c) < 32 or ord(c) == 127 for c in raw):
        raise _refuse(f"the name {shown}")
    if "\\" in raw or ":" in raw or path.is_absolute() or raw.startswith("/"):
        raise _refuse(f"the absolute or foreign path {shown}")
    if any(
        part in ("", "..", ".") or part != part.strip() or part.endswith(".") for part in raw.rstrip("/").split("/")
    ):
        raise _refuse(f"the path {shown}")
    if any(part.partition(".")[0].rstrip().upper() in _DEVICES for part in path.parts):
        raise _refuse(f"{shown}, a name that Windows keeps for a device,")
    if stat.S_IFMT(mode) and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise _refuse(f"{shown}, which is a link or a device,")
    if entry.flag_bits & 0x1:
        raise _refuse(f"{shown}, which is encrypted,")
    if not entry.is_dir() and (path.suffix.lower() not in _KINDS or path.name.startswith(".")):
        raise _refuse(f"{shown}, a kind of file that no bundle needs,")
    return path


def _refuse_clashes(paths: list[PurePosixPath], files: list[PurePosixPath]) -> None:
    """Refuse names that are the same file on some system, and files that another entry uses as a folder."""

    def folded(path: PurePosixPath) -> str:
        return unicodedata.normalize("NFKC", str(path)).casefold()

    seen: set[str] = set()
    for path in paths:
        if folded(path) in seen:
            raise _refuse(f"{str(path)!r} twice")
        seen.add(folded(path))
    plain = {folded(path) for path in files}
    for path in paths:
        for parent in path.parents:
            if folded(parent) in plain:
                raise _refuse(f"{str(parent)!r} as a file and as a folder")
