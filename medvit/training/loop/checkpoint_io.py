"""Atomic writing of a training run's files, with a clear error for a full disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from medvit.atomic_write import replace_file
from medvit.errors import OutputError, system_words

__all__ = ["store_state"]


def store_state(path: Path, state: dict[str, Any]) -> None:
    """Write a state as a PyTorch file under a temporary name, then rename it; the older file is kept until then.

    Raises:
        OutputError: the file cannot be written (e.g. a full disk); the older file is unchanged.
    """
    try:
        with replace_file(path) as aside:
            torch.save(state, aside)
    # PyTorch's own writer reports a failed write as a RuntimeError without its number
    except (OSError, RuntimeError) as error:
        what, step = system_words(error) if isinstance(error, OSError) else _first_words(error)
        kept = f"the checkpoint of step {_step_of(path)} is kept" if path.is_file() else "no checkpoint exists yet"
        raise OutputError(
            f"that {path} cannot be written ({what})",
            f"{kept}",
            f"{step}, then give the same command again to continue from it.",
        ) from error


def _first_words(error: RuntimeError) -> tuple[str, str]:
    return str(error).splitlines()[0], "Free some space"


def _step_of(path: Path) -> int | str:
    try:
        return int(torch.load(path, weights_only=True, map_location="cpu")["step"])
    except (OSError, RuntimeError, KeyError, ValueError):
        return "an unknown number"
