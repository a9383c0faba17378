"""Installation of bundles to the store and removal from it. The user agrees first; files are checked, then moved by one
rename.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from medvit.atomic_write import staging_folder
from medvit.bundles.bundle import Bundle
from medvit.bundles.remote.archive import is_bundle_archive, read_metadata, unpack
from medvit.bundles.remote.config_allowlist import check_configs
from medvit.bundles.remote.http import RetryPolicy, read_small
from medvit.bundles.remote.mirror import DownloadLocation, archive_place, sha256_of, weights_place
from medvit.bundles.remote.resumable_download import Remote, check_digest, digest, download
from medvit.bundles.search import bundle_folders, open_bundle
from medvit.bundles.store import (
    Installed,
    bundles_home,
    cache_home,
    forget,
    locked,
    os_errors_as_store_errors,
    read_manifest,
    record,
    weights_home,
)
from medvit.errors import BundleError, ChecksumError, FetchError, StoreError
from medvit.progress import Progress
from medvit.user_folders import store_folder

__all__ = ["FetchRequest", "FetchResult", "FetchSummary", "fetch", "remove"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*")

_WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class FetchRequest:
    """A request to fetch a bundle.

    Attributes:
        name: name of the bundle.
        given: a local file instead of a download: the published weights or the bundle's zip.
        overwrite: True to fetch a bundle that is installed and intact.
        agreed: form of agreement to the licence, for the manifest.
    """

    name: str
    given: Path | None = None
    overwrite: bool = False
    agreed: Literal["asked", "--yes"] = "asked"


@dataclass(frozen=True, kw_only=True)
class FetchSummary:
    """Summary that the user sees before agreeing. Fields are None where only the file states them; the user is then
    asked again after the download.
    """

    name: str
    kind: Literal["weights", "bundle"]
    source: str
    version: str | None = None
    licence: str | None = None
    intended_use: str | None = None
    size: int | None = None


@dataclass(frozen=True)
class FetchResult:
    """Result of a fetch; ``entry`` is None where the bundle was already installed."""

    bundle: Bundle
    entry: Installed | None


Confirm = Callable[[FetchSummary], bool]
ProgressFactory = Callable[[], AbstractContextManager[Progress]]


def fetch(
    request: FetchRequest,
    agree: Confirm,
    watch: ProgressFactory = lambda: nullcontext(Progress()),
    patience: RetryPolicy | None = None,
) -> FetchResult:
    """Fetch a bundle, or the weights of one that ships without.

    Without ``given``, weights come from the address in the bundle's metadata, and whole bundles from ``MEDVIT_MIRROR``.
    If that variable is set (a folder or a base address), it replaces every address, and no other server is contacted.

    Args:
        request: the bundle to fetch.
        agree: called with each ``FetchSummary``; no server is contacted before it first returns True.
        watch: returns a context with the ``Progress`` of a download or an unpacking.
        patience: limits for retries.

    Returns:
        The bundle, ready to run.

    Raises:
        FetchError: the user did not agree, or the file is not available or not safe to unpack.
        ChecksumError: the file differs from the published one.
        BundleError: the bundle is unknown, or its content is wrong.
        StoreError: the store cannot be read or written.
    """
    patience = patience or RetryPolicy()
    _check_name(request.name)
    read_manifest()  # reports a damaged manifest before any download
    known = Bundle(bundle_folders()[request.name]) if request.name in bundle_folders() else None
    if known and not request.overwrite and _intact(known):
        return FetchResult(known, None)
    if request.given is not None and not request.given.is_file():
        raise FetchError(f"no file at {request.given}", "{given} needs one", "Check the path.", option="given")
    origin = known.facts.weights.origin if known else None
    if known and origin and not (request.given and is_bundle_archive(request.given)):
        place = weights_place(origin, request.given)
        size = place.path.stat().st_size if place.path else origin.size
        card = FetchSummary(
            name=known.name,
            kind="weights",
            source=place.shown,
            version=known.version,
            licence=origin.licence,
            intended_use=known.intended_use,
            size=size,
        )
        _require(agree(card))
        published = _bring(request, place, origin.size, watch, patience)
        entry = _install_weights(request, known, published, place.source)
    else:
        place = archive_place(request.name, request.given, known)
        if place.path is None:
            _require(agree(FetchSummary(name=request.name, kind="bundle", source=place.shown)))
        archive = _bring(request, place, None, watch, patience)
        metadata = read_metadata(archive, request.name)
        card = _bundle_card(request.name, place, metadata, archive.stat().st_size)
        _require(agree(card))
        entry = _install_bundle(request, archive, place, watch)
    return FetchResult(open_bundle(request.name), entry)


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise BundleError(
            f"{name!r} where a bundle's name is needed: letters, digits, '_', '-' and '.' alone",
            remedy="See: {medvit.bundles.bundle_folders()}.",
            option="medvit.bundles.bundle_folders()",
        )


def _intact(bundle: Bundle) -> bool:
    if bundle.state not in ("trained", "fetched"):
        return False
    try:
        bundle.verify()
    except ChecksumError:
        return False
    return True


def _require(agreed: bool) -> None:
    if not agreed:
        raise FetchError(
            "no agreement to the licence", "it is needed, and nothing was installed", "Run again to agree."
        )


def _bundle_card(name: str, place: DownloadLocation, metadata: dict[str, Any], size: int) -> FetchSummary:
    ours = metadata.get("medvit")
    licence = ours.get("licence") if isinstance(ours, dict) else None
    facts = [
        str(value) if value else "not stated"
        for value in (metadata.get("version"), licence, metadata.get("intended_use"))
    ]
    return FetchSummary(
        name=name,
        kind="bundle",
        source=place.shown,
        version=facts[0],
        licence=facts[1],
        intended_use=facts[2],
        size=size,
    )


def _bring(
    request: FetchRequest, place: DownloadLocation, size: int | None, watch: ProgressFactory, patience: RetryPolicy
) -> Path:
    """Return the local path of the file, downloaded if necessary, with the right checksum."""
    if place.path is not None:
        try:
            if place.checksum is not None:
                check_digest(place.path, place.checksum, place.shown)
        except PermissionError as error:
            raise FetchError(f"no right to read {place.path}", "it is needed", "Check its permissions.") from error
        return place.path
    assert place.address is not None
    checksum = place.checksum or sha256_of(read_small(place.address + ".sha256", patience), place.address + ".sha256")
    part = cache_home() / f"{request.name}-{checksum.partition(':')[2][:16]}.part"
    with locked(request.name), watch() as progress:
        return download(Remote(place.address, checksum, size), part, progress, patience)


def _install_weights(request: FetchRequest, bundle: Bundle, published: Path, source: str) -> Installed:
    from medvit.bundles.remote.convert_checkpoint import convert

    origin = bundle.facts.weights.origin
    assert origin is not None
    target = weights_home() / bundle.name / _WEIGHTS
    with locked(request.name), os_errors_as_store_errors(), staging_folder(store_folder()) as aside:
        convert(bundle, published, aside / _WEIGHTS)
        sha256 = digest(aside / _WEIGHTS, "sha256").partition(":")[2]
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(aside / _WEIGHTS, target)
        entry = Installed(
            kind="weights",
            version=bundle.version,
            file=target.relative_to(store_folder()).as_posix(),
            sha256=sha256,
            download=origin.checksum,
            source=source,
            licence=origin.licence,
            agreed=request.agreed,
            installed=_now(),
        )
        record(bundle.name, entry)
    _clear_cache(request.name)
    return entry


def _install_bundle(request: FetchRequest, archive: Path, place: DownloadLocation, watch: ProgressFactory) -> Installed:
    target = bundles_home() / request.name
    with locked(request.name), os_errors_as_store_errors(), staging_folder(store_folder()) as aside:
        with watch() as progress:
            unpack(archive, aside / request.name, request.name, progress)
        check_configs(aside / request.name)
        bundle = Bundle(aside / request.name)
        if bundle.facts.weights.sha256 is None:
            raise BundleError(
                f"no sha256 of the weights in the metadata of {request.name}",
                "an archive must state the sha256 of its weights",
                "Ask who made it.",
            )
        sha256 = bundle.verify()
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            os.replace(target, aside / "before")
        try:
            os.replace(aside / request.name, target)
        except OSError:
            if (aside / "before").exists():
                os.replace(aside / "before", target)
            raise
        entry = Installed(
            kind="bundle",
            version=bundle.version,
            file=(target / bundle.facts.weights.file).relative_to(store_folder()).as_posix(),
            sha256=sha256,
            download=digest(archive, "sha256"),
            source=place.source,
            licence=bundle.facts.licence,
            agreed=request.agreed,
            installed=_now(),
        )
        record(request.name, entry)
        shutil.rmtree(weights_home() / request.name, ignore_errors=True)
    _clear_cache(request.name)
    return entry


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _under_way(name: str) -> list[Path]:
    """Return the files of interrupted downloads."""
    return [
        p
        for p in cache_home().glob("*.part*")
        if re.fullmatch(re.escape(name) + r"-[0-9a-f]{16}\.part(\.json)?", p.name)
    ]


def _clear_cache(name: str) -> None:
    for path in _under_way(name):
        path.unlink(missing_ok=True)


def remove(name: str) -> None:
    """Remove a fetched bundle, fetched weights, or an interrupted download from the store; shipped bundles stay.

    Raises:
        StoreError: the store does not contain it.
        BundleError: ``name`` is not a valid bundle name.
    """
    _check_name(name)
    with locked(name), os_errors_as_store_errors():
        entry = forget(name)
        found = [path for path in (weights_home() / name, bundles_home() / name) if path.exists()]
        if entry is None and not found and not _under_way(name):
            there = ", ".join(read_manifest().bundles) or "nothing"
            raise StoreError(
                f"no {name!r} in the bundle store", "only fetched bundles can be removed", f"It holds: {there}."
            )
        with staging_folder(store_folder()) as aside:
            for path in found:
                os.replace(path, aside / path.parent.name)
    _clear_cache(name)
