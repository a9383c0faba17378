"""Locations of a bundle's files: the address in its metadata, a mirror, or a local file."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from medvit.bundles.bundle import Bundle
from medvit.bundles.metadata import WeightsOrigin, suggest_names
from medvit.bundles.remote.archive import is_bundle_archive
from medvit.bundles.search import bundle_folders
from medvit.errors import BundleError, FetchError

__all__ = ["DownloadLocation", "archive_place", "sha256_of", "weights_place"]


@dataclass(frozen=True)
class DownloadLocation:
    """Location of a file, local or at an address, and its checksum where known.

    Attributes:
        path: a local file, or None.
        address: an address, or None.
        checksum: "md5:..." or "sha256:..." in hexadecimal, or None.
        source: description for the manifest, which names no local folder.
    """

    path: Path | None
    address: str | None
    checksum: str | None
    source: str

    @property
    def shown(self) -> str:
        """Text for messages to the user, which may name a local folder."""
        return str(self.address or self.path)


def _mirror() -> str | Path | None:
    """Return ``MEDVIT_MIRROR``: a base address without its last slash, a folder, or None.

    Raises:
        FetchError: the value is neither, or contains a password, which would appear in messages and the manifest.
    """
    value = os.environ.get("MEDVIT_MIRROR", "").strip()
    if not value:
        return None
    if re.match(r"https?://[^/?#@\s]+(/[^?#@\s]*)?$", value):
        return value.rstrip("/")
    if "://" in value:
        raise FetchError(
            "an address in MEDVIT_MIRROR that is not a plain http or https one",
            "the address must have no user, password or query",
            "Correct it, or name a folder.",
        )
    folder = Path(value).expanduser()
    if not folder.is_dir():
        raise FetchError(
            f"no folder at {folder}, which MEDVIT_MIRROR names", "no other place is searched", "Correct or unset it."
        )
    return folder


def weights_place(origin: WeightsOrigin, given: Path | None) -> DownloadLocation:
    """Return the location of weights that do not ship with their bundle.

    Raises:
        FetchError: the mirror lacks them.
    """
    if given is not None:
        return DownloadLocation(given, None, origin.checksum, "local file")
    mirror = _mirror()
    if isinstance(mirror, Path):
        return DownloadLocation(_in_folder(mirror, origin.file), None, origin.checksum, "mirror folder")
    found = origin.address if mirror is None else f"{mirror}/{origin.file}"
    return DownloadLocation(None, found, origin.checksum, found)


def archive_place(name: str, given: Path | None, known: Bundle | None) -> DownloadLocation:
    """Return the location of a bundle's zip; on a mirror, ``NAME.zip.sha256`` must exist beside it.

    Args:
        name: name of the bundle.
        given: a local file; its checksum file is optional.
        known: the installed bundle of that name, if any.

    Raises:
        FetchError: the mirror lacks the zip, or the local file is not one.
        BundleError: no location is known.
    """
    file = f"{name}.zip"
    if given is not None:
        if not is_bundle_archive(given):
            raise FetchError(
                f"{given.name}, which is neither a bundle's zip nor weights that {name} asks for",
                "one of them is needed",
                "Give the file that the bundle's documentation names.",
            )
        beside = given.with_name(given.name + ".sha256")
        return DownloadLocation(
            given,
            None,
            sha256_of(beside.read_bytes(), beside.name) if beside.is_file() else None,
            "local file",
        )
    mirror = _mirror()
    if isinstance(mirror, Path):
        path, beside = _in_folder(mirror, file), _in_folder(mirror, file + ".sha256")
        return DownloadLocation(path, None, sha256_of(beside.read_bytes(), beside.name), "mirror folder")
    if mirror is not None:
        return DownloadLocation(None, f"{mirror}/{file}", None, f"{mirror}/{file}")
    if known is not None:
        raise BundleError(
            f"no address for {name} in its metadata",
            "a bundle without an address needs a mirror or a file",
            "Set MEDVIT_MIRROR, or give its zip with {given=...}.",
            option="given",
        )
    raise BundleError(
        f"no bundle named {name!r}",
        remedy=(
            f"{suggest_names(name, list(bundle_folders()))} A bundle that is not listed needs a mirror or a file: "
            "set MEDVIT_MIRROR, or give its zip with {given=...}."
        ).lstrip(),
        option="given",
    )


def _in_folder(mirror: Path, name: str) -> Path:
    if not (mirror / name).is_file():
        raise FetchError(
            f"no {name} in {mirror}, which MEDVIT_MIRROR names",
            "no other place is searched",
            "Put it there, or unset MEDVIT_MIRROR.",
        )
    return mirror / name


def sha256_of(content: bytes, name: str) -> str:
    """Parse the first word of a checksum file as ``sha256:...``.

    Raises:
        FetchError: the content is not a checksum.
    """
    found = re.match(rb"\s*([0-9a-fA-F]{64})(\s|$)", content)
    if not found:
        raise FetchError(f"no sha256 in {name}", "its first word must be 64 hexadecimal digits", "Correct the mirror.")
    return f"sha256:{found[1].decode().lower()}"
