"""Label maps in compressed ``.npz`` files."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvit.atomic_write import replace_file

__all__ = ["read_arrays", "write_arrays"]


def write_arrays(path: Path, **arrays: Any) -> None:
    """Write arrays into one file, which replaces an earlier file atomically."""
    with replace_file(path) as aside, aside.open("wb") as file:
        np.savez_compressed(file, **arrays)


def read_arrays(path: Path, *names: str) -> tuple[NDArray[Any], ...] | None:
    """Read arrays of a file by name; return None if the file is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return tuple(np.asarray(stored[name]) for name in names)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
