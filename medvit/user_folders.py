"""Folders of the user: the store of fetched bundles and the cache, where the platform keeps a program's data."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_folder", "store_folder"]


def store_folder() -> Path:
    """Return the folder of the store: ``MEDVIT_HOME``, or else the platform's folder for a user's data; it may not exist yet."""
    from platformdirs import user_data_path  # not at the top: `medvit --help` loads this module and needs no folder

    return _given("MEDVIT_HOME") or user_data_path("medvit", appauthor=False)


def cache_folder() -> Path:
    """Return the folder of the cache: ``MEDVIT_CACHE``, or else the platform's folder for caches; it may not exist yet."""
    from platformdirs import user_cache_path

    return _given("MEDVIT_CACHE") or user_cache_path("medvit", appauthor=False)


def _given(variable: str) -> Path | None:
    value = os.environ.get(variable)
    return Path(value).expanduser().absolute() if value else None
