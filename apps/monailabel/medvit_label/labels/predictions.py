"""Repository of the models' last answers on the images and their quality, to score submitted labels and to rank cases."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvit_label.journal import Journal
from medvit_label.labels.label_arrays import read_arrays, write_arrays

__all__ = ["PredictionRepository", "Quality"]


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Quality of a model's last answer on an image.

    Attributes:
        image: the image's id.
        model: the bundle's name.
        content: ``quality`` and ``agreement`` of the result, ``bundle`` (its name and version) and ``seconds``.
    """

    image: str
    model: str
    content: dict[str, Any]


class PredictionRepository:
    """Repository of label maps in ``<state>/predictions``, one for each model and image, and of their quality in the journal.

    A newer answer replaces an older one.

    Args:
        folder: folder of the project's state.
        journal: the project's journal.
    """

    def __init__(self, folder: Path, journal: Journal) -> None:
        self._folder, self._journal = folder / "predictions", journal

    def keep(self, model: str, image: str, ids: NDArray[np.integer], version: str) -> None:
        """Store an answer.

        Args:
            model: the bundle's name.
            image: the image's id.
            ids: label ids, (i, j, k), or (row, column) of a picture.
            version: version of the bundle that answered.
        """
        write_arrays(self._file(model, image), ids=ids.astype(np.uint16), version=np.array(version))

    def get(self, model: str, image: str) -> tuple[NDArray[np.integer], str] | None:
        """Return an answer and the version of its bundle; None if there is none, or its file is damaged."""
        found = read_arrays(self._file(model, image), "ids", "version")
        return None if found is None else (found[0], str(found[1]))

    def keep_quality(self, quality: Quality) -> None:
        """Store the quality of an answer."""
        self._journal.change(
            "INSERT INTO quality VALUES (?, ?, ?) ON CONFLICT (image, model) DO UPDATE SET content = excluded.content",
            quality.image, quality.model, json.dumps(quality.content),
        )  # fmt: skip

    def qualities(self) -> list[Quality]:
        """Return the quality of each stored answer."""
        rows = self._journal.rows("SELECT * FROM quality")
        return [Quality(image=r["image"], model=r["model"], content=json.loads(r["content"])) for r in rows]

    def images_answered_by(self, bundle: str) -> set[str]:
        """Return the images whose last answer came from a bundle with this name and version (``bands 0.1.0``)."""
        return {quality.image for quality in self.qualities() if quality.content.get("bundle") == bundle}

    def _file(self, model: str, image: str) -> Path:
        return self._folder / model / f"{hashlib.sha256(image.encode()).hexdigest()[:32]}.npz"
