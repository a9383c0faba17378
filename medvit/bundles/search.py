"""Search for bundles by name: shipped, installed, and in the folders of ``MEDVIT_BUNDLES``."""

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
    """Return the folders of the bundles that came with this installation, by name."""
    here = Path(__file__).resolve().parents[1]
    # a wheel contains the bundles inside the package, a checkout beside it
    return _folders([here / "_bundles", here.parent / "bundles"])


def bundle_folders() -> dict[str, Path]:
    """Return the folder of every bundle that can be found, by name.

    Bundles in the folders of ``MEDVIT_BUNDLES`` take precedence over fetched ones, and those over shipped ones.

    Returns:
        Folder by name of the bundle.

    Examples:
        >>> from medvit.bundles import bundle_folders
        >>> "headneck_ct_swin_unetr" in bundle_folders()
        True
    """
    given = [Path(p) for p in os.environ.get("MEDVIT_BUNDLES", "").split(os.pathsep) if p]
    return shipped_folders() | _folders([bundles_home()]) | _folders(given)


def open_bundle(name: str | os.PathLike[str]) -> Bundle:
    """Open a bundle by name or by the path of its folder.

    Args:
        name: name of a bundle, or path of a folder with ``configs/metadata.json``.

    Returns:
        The bundle; its configs are read on first use.

    Raises:
        BundleError: there is no such bundle; the message offers similar names.

    Examples:
        >>> from medvit.bundles import open_bundle
        >>> open_bundle("headneck_ct_swin_unetr").facts.task
        'segmentation'
        >>> open_bundle("headneck_swin")
        Traceback (most recent call last):
            ...
        medvit.errors.BundleError: Found no bundle named 'headneck_swin'...
    """
    folders = bundle_folders()
    if str(name) in folders:
        return Bundle(folders[str(name)])
    if (Path(name) / "configs" / "metadata.json").is_file():
        return Bundle(Path(name).resolve())
    raise BundleError(
        f"no bundle named {str(name)!r}",
        remedy=(
            f"{suggest_names(str(name), list(folders))} Installed: {', '.join(folders) or 'none'}. "
            "See: {medvit.bundles.bundle_folders()}."
        ).lstrip(),
        option="medvit.bundles.bundle_folders()",
    )
