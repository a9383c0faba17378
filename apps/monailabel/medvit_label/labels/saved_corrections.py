"""Corrections of each annotator on disk: the labels as they stand after the last click, by annotator, model and image."""

from __future__ import annotations

import hashlib
import json
import threading
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medvit.atomic_write import replace_file
from medvit_label.journal import Journal

__all__ = ["KeptCorrections", "Mark", "moment"]


@dataclass(frozen=True)
class Mark:
    """Summary of an annotator's corrections of one image.

    Attributes:
        state: of the image they were made on (``Image.state``).
        version: of the model they were made on.
        count: requests with clicks, scribbles or a box.
        changed: seconds since 1970 of the last one.
        file: holds the labels; empty where they were dropped for want of room.
    """

    state: str
    version: str
    count: int
    changed: float
    file: str

    @property
    def words(self) -> str:
        """Number of corrections and the time of the last one, as text."""
        return f"{self.count} correction{'s' if self.count != 1 else ''} (the last of {moment(self.changed)})"


def moment(seconds: float) -> str:
    """Return a time of day with its date, for messages."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


class KeptCorrections:
    """Label maps in ``<state>/corrections``; they outlive other images and a restart.

    Args:
        folder: the project's state.
        journal: where they are written down.
        most: sets that are kept, one for each annotator, model and image; of more, those unused for longest are dropped.
    """

    def __init__(self, folder: Path, journal: Journal, most: int) -> None:
        self._folder, self._journal, self._most = folder / "corrections", journal, most
        self._lock = threading.Lock()

    def mark(self, annotator: str, model: str, image: str) -> Mark | None:
        """Return the summary of an annotator's corrections; None where there are none."""
        rows = self._journal.rows(
            "SELECT * FROM corrections WHERE annotator = ? AND model = ? AND image = ?", annotator, model, image
        )
        if not rows:
            return None
        row = rows[0]
        return Mark(row["state"], row["version"], row["count"], row["changed"], row["file"])

    def labels(self, mark: Mark) -> NDArray[np.integer] | None:
        """Return the labels after the last correction; None where their file is missing or damaged."""
        try:
            with np.load(self._folder / mark.file, allow_pickle=False) as kept:
                return np.asarray(kept["ids"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None

    def keep(self, key: tuple[str, str, str], mark: Mark, ids: NDArray[np.integer]) -> list[str]:
        """Keep the labels after a correction in place of those before it.

        Args:
            key: annotator, model and image.
            mark: what to write down; its ``file`` is chosen here.
            ids: the labels.

        Returns:
            Nothing, or in words that others' corrections had to make room.
        """
        name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32] + ".npz"
        with self._lock:
            with replace_file(self._folder / name) as aside, aside.open("wb") as file:
                np.savez_compressed(file, ids=ids)
            self._journal.change(
                "INSERT INTO corrections VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (annotator, model, image) DO UPDATE SET "
                "state = excluded.state, version = excluded.version, count = excluded.count, changed = excluded.changed, file = excluded.file",
                *key, mark.state, mark.version, mark.count, mark.changed, name,
            )  # fmt: skip
            return self._make_room()

    def _make_room(self) -> list[str]:
        old = self._journal.rows(
            "SELECT annotator, model, image, file FROM corrections WHERE file != '' ORDER BY changed DESC LIMIT -1 OFFSET ?",
            self._most,
        )
        for row in old:
            (self._folder / row["file"]).unlink(missing_ok=True)
            # the row stays, so that its annotator is told
            self._journal.change(
                "UPDATE corrections SET file = '' WHERE annotator = ? AND model = ? AND image = ?",
                row["annotator"], row["model"], row["image"],
            )  # fmt: skip
        images = ", ".join(dict.fromkeys(row["image"] for row in old))
        return (
            [f"Only the newest {self._most} corrected images are kept; those of {images} were dropped."] if old else []
        )

    def drop(self, annotator: str, model: str, image: str) -> Mark | None:
        """Forget an annotator's corrections of an image; return what was known of them."""
        with self._lock:
            mark = self.mark(annotator, model, image)
            if mark is not None:
                self._remove("annotator = ? AND model = ? AND image = ?", annotator, model, image)
            return mark

    def drop_image(self, image: str) -> None:
        """Delete all annotators' corrections of a removed image, such as one of an ended session."""
        with self._lock:
            self._remove("image = ?", image)

    def _remove(self, where: str, *values: str) -> None:
        for row in self._journal.rows(f"SELECT file FROM corrections WHERE {where}", *values):
            if row["file"]:
                (self._folder / row["file"]).unlink(missing_ok=True)
        self._journal.change(f"DELETE FROM corrections WHERE {where}", *values)
