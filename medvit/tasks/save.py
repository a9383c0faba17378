"""The folder of a result: checked before a run, so that nothing of the user is overwritten."""

from __future__ import annotations

from pathlib import Path

from medvit.atomic_write import HIDDEN, os_errors_as_output_errors, staging_folder
from medvit.errors import OutputError

__all__ = ["check_folder"]


def check_folder(folder: Path, overwrite: bool) -> None:
    """Refuse a folder that holds something or cannot be made, before any work is done.

    Raises:
        OutputError: existing output, a file in the way, or no permission.
    """
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"Found a file at {folder}, where the output folder should be. Choose another with -o.")
    if folder.is_dir() and _holds_something(folder) and not overwrite:
        raise OutputError(
            f"Found files in {folder}; results are never written over silently. Choose another folder or add --overwrite."
        )
    with os_errors_as_output_errors(folder), staging_folder(folder):
        pass


def _holds_something(folder: Path) -> bool:
    return any(not path.name.startswith(HIDDEN) for path in folder.iterdir())
