"""The model's last answer on each image of the project, kept on disk, to hold submitted labels against."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medvit.atomic_write import replace_file

__all__ = ["Predictions"]


class Predictions:
    """Label maps in ``<state>/predictions``, one for each model and image; a newer answer takes an older one's place.

    Args:
        folder: the project's state.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "predictions"

    def keep(self, model: str, image: str, ids: NDArray[np.integer], version: str) -> None:
        """Keep an answer.

        Args:
            model: the bundle's name.
            image: the image's id.
            ids: (i, j, k), or (row, column) of a picture.
            version: of the bundle that answered.
        """
        with replace_file(self._file(model, image)) as aside, aside.open("wb") as file:
            np.savez_compressed(file, ids=ids.astype(np.uint16), version=np.array(version))

    def get(self, model: str, image: str) -> tuple[NDArray[np.integer], str] | None:
        """An answer and the version of the bundle that gave it; None where none was kept, or its file is damaged."""
        try:
            with np.load(self._file(model, image), allow_pickle=False) as kept:
                return kept["ids"], str(kept["version"])
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            return None

    def _file(self, model: str, image: str) -> Path:
        return self._folder / model / f"{hashlib.sha256(image.encode()).hexdigest()[:32]}.npz"
