"""Where a bundle's file is to be had: the address in its metadata, a mirror in its stead, or a file given."""

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
    """Where a file is to be had: here, or at an address; and what it must be, where that is known."""

    path: Path | None
    address: str | None
    checksum: str | None
    source: str

    @property
    def shown(self) -> str:
        """For a person's eyes; the manifest gets ``source``, which names no folder of this machine."""
        return str(self.address or self.path)


def _mirror() -> str | Path | None:
    """``MEDVIT_MIRROR``: a base address without its last slash, a folder, or None.

    Raises:
        FetchError: neither, or an address with a password, which would end up in messages and the manifest.
    """
    value = os.environ.get("MEDVIT_MIRROR", "").strip()
    if not value:
        return None
    if re.match(r"https?://[^/?#@\s]+(/[^?#@\s]*)?$", value):
        return value.rstrip("/")
    if "://" in value:
        raise FetchError(
            "an address in MEDVIT_MIRROR that is not a plain http or https one",
            "it must be, without user, password or query",
            "Correct it, or name a folder.",
        )
    folder = Path(value).expanduser()
    if not folder.is_dir():
        raise FetchError(
            f"no folder at {folder}, which MEDVIT_MIRROR names", "nothing else is asked", "Correct or unset it."
        )
    return folder


def weights_place(origin: WeightsOrigin, given: Path | None) -> DownloadLocation:
    """Where weights that a bundle ships without are to be had.

    Raises:
        FetchError: the mirror has none.
    """
    if given is not None:
        return DownloadLocation(given, None, origin.checksum, "local file")
    mirror = _mirror()
    if isinstance(mirror, Path):
        return DownloadLocation(_in_folder(mirror, origin.file), None, origin.checksum, "mirror folder")
    found = origin.address if mirror is None else f"{mirror}/{origin.file}"
    return DownloadLocation(None, found, origin.checksum, found)


def archive_place(name: str, given: Path | None, known: Bundle | None) -> DownloadLocation:
    """Where a whole bundle's zip is to be had; beside it on a mirror lies ``NAME.zip.sha256``.

    Args:
        name: of the bundle.
        given: a file on this machine, whose checksum file need not be there.
        known: the bundle of that name that is installed, if any.

    Raises:
        FetchError: the mirror or the file given has none. BundleError: nobody says where it is.
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
            "without one it can only come from a mirror or a file",
            "Set MEDVIT_MIRROR, or give its zip with --from FILE.",
        )
    raise BundleError(
        f"Found no bundle named {name!r}.{suggest_names(name, list(bundle_folders()))} "
        "One that is not listed can only come from a mirror or a file: set MEDVIT_MIRROR, or give its zip with --from FILE."
    )


def _in_folder(mirror: Path, name: str) -> Path:
    if not (mirror / name).is_file():
        raise FetchError(
            f"no {name} in {mirror}, which MEDVIT_MIRROR names",
            "nothing else is asked",
            "Put it there, or unset MEDVIT_MIRROR.",
        )
    return mirror / name


def sha256_of(content: bytes, name: str) -> str:
    """The first word of a checksum file, as ``sha256:...``.

    Raises:
        FetchError: it is not one.
    """
    found = re.match(rb"\s*([0-9a-fA-F]{64})(\s|$)", content)
    if not found:
        raise FetchError(f"no sha256 in {name}", "its first word must be 64 hexadecimal digits", "Correct the mirror.")
    return f"sha256:{found[1].decode().lower()}"
