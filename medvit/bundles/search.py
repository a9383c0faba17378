"""The search for a bundle by its name: shipped, installed and from the folders of ``MEDVIT_BUNDLES``."""

from __future__ import annotations

import os
from pathlib import Path

from medvit.bundles.bundle import Bundle
from medvit.bundles.metadata import (
    suggest_names,
)
from medvit.bundles.store import bundles_home
from medvit.errors import BundleError

__all__ = ["bundle_folders", "open_bundle", "shipped_folders"]


def _folders(places: list[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for place in places:
        if place.is_dir():
            for folder in sorted(place.iterdir()):
                if (folder / "configs" / "metadata.json").is_file():
                    found.setdefault(folder.name, folder)
    return found


def shipped_folders() -> dict[str, Path]:
    """The bundles that came with this installation, by name."""
    here = Path(__file__).resolve().parents[1]
    # a wheel carries the bundles inside the package, a checkout beside it
    return _folders([here / "_bundles", here.parent / "bundles"])


def bundle_folders() -> dict[str, Path]:
    """Every bundle that can be found, by name: ``MEDVIT_BUNDLES`` first, then those fetched, then those shipped."""
    given = [Path(p) for p in os.environ.get("MEDVIT_BUNDLES", "").split(os.pathsep) if p]
    return shipped_folders() | _folders([bundles_home()]) | _folders(given)


def open_bundle(name: str | os.PathLike[str]) -> Bundle:
    """A bundle by name or by the path of its folder.

    Raises:
        BundleError: no such bundle; the nearest names are offered.
    """
    folders = bundle_folders()
    if str(name) in folders:
        return Bundle(folders[str(name)])
    if (Path(name) / "configs" / "metadata.json").is_file():
        return Bundle(Path(name).resolve())
    raise BundleError(
        f"Found no bundle named {str(name)!r}.{suggest_names(str(name), list(folders))} "
        f"Installed: {', '.join(folders) or 'none'}. See: medvit bundles list."
    )
