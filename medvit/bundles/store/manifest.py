"""``manifest.json``: the fetched bundles and weights, with their origins and checksums."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medvit.atomic_write import replace_file
from medvit.bundles.store.paths import locked, os_errors_as_store_errors
from medvit.errors import StoreError
from medvit.user_folders import store_folder

__all__ = ["Installed", "Manifest", "forget", "read_manifest", "record"]


class Installed(BaseModel):
    """A fetched bundle, or the fetched weights of one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["weights", "bundle"]
    version: str = Field(description="version of the bundle")
    file: str = Field(description="path of the weights, relative to the store")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="sha256 of the weights; checked at every load")
    download: str = Field(pattern=r"^(md5|sha256):[0-9a-f]+$", description="checksum of the fetched file")
    source: str = Field(description="address of the fetched file; a local file is recorded without its path")
    licence: str = Field(description="licence as shown and agreed to")
    agreed: Literal["asked", "--yes"] = Field(description="way in which the licence was agreed to")
    installed: str = Field(description="date and time, UTC")


class Manifest(BaseModel):
    """All fetched items, by name of the bundle."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    bundles: dict[str, Installed] = {}


def _path() -> Path:
    return store_folder() / "manifest.json"


def read_manifest() -> Manifest:
    """Read the manifest; empty where nothing has been fetched.

    Raises:
        StoreError: the manifest is damaged or cannot be read.
    """
    try:
        return Manifest.model_validate_json(_path().read_bytes())
    except FileNotFoundError:
        return Manifest()
    except OSError as error:
        raise StoreError(
            f"{_path()}, which cannot be read ({error.strerror})",
            "this file records the checksums of fetched weights",
            "Check its permissions.",
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        raise StoreError(
            f"{_path()} damaged ({first['msg']})",
            "this file records the checksums of fetched weights",
            "Move it away and fetch its bundles again: {medvit.bundles.remote.fetch()=FetchRequest(name='NAME')}.",
            option="medvit.bundles.remote.fetch()",
        ) from None


def record(name: str, entry: Installed) -> None:
    """Add or replace an entry atomically."""
    with locked("manifest", wait=True):
        _write({**read_manifest().bundles, name: entry})


def forget(name: str) -> Installed | None:
    """Remove an entry and return it; None if there was none."""
    with locked("manifest", wait=True):
        bundles = dict(read_manifest().bundles)
        entry = bundles.pop(name, None)
        if entry is not None:
            _write(bundles)
    return entry


def _write(bundles: dict[str, Installed]) -> None:
    content = Manifest(bundles=dict(sorted(bundles.items()))).model_dump_json(indent=2) + "\n"
    with os_errors_as_store_errors(), replace_file(_path(), durable=True) as aside:
        aside.write_text(content)
        aside.chmod(0o644)  # readable by other users of this machine
