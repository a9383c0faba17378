"""Repository of the annotators' corrections on disk: the labels after the last correction, by annotator, model and
image.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medvit_label.journal import Journal
from medvit_label.labels.label_arrays import read_arrays, write_arrays

__all__ = ["CorrectionRepository", "CorrectionSummary", "format_time"]


@dataclass(frozen=True, kw_only=True)
class CorrectionSummary:
    """Summary of an annotator's corrections of one image.

    Attributes:
        state: state of the image at the time (``LabelImage.state``).
        version: version of the model at the time.
        count: number of requests with clicks, scribbles or a box.
        changed: time of the last one, in seconds since 1970.
        file: file with the labels; empty if they were dropped to make room.
    """

    state: str
    version: str
    count: int
    changed: float
    file: str

    @property
    def words(self) -> str:
        """Number of corrections and the time of the last one, as text."""
        return f"{self.count} correction{'s' if self.count != 1 else ''} (the last of {format_time(self.changed)})"


def format_time(seconds: float) -> str:
    """Format a time with its date, for messages."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


class CorrectionRepository:
    """Repository of corrected label maps in ``<state>/corrections``; they are kept when another image is opened or the
    server restarts.

    Args:
        folder: folder of the project's state.
        journal: the project's journal.
        most: upper limit of stored label maps, one for each annotator, model and image; the oldest ones beyond it are
            dropped.
    """

    def __init__(self, folder: Path, journal: Journal, most: int) -> None:
        self._folder, self._journal, self._most = folder / "corrections", journal, most
        self._lock = threading.Lock()

    def summary(self, annotator: str, model: str, image: str) -> CorrectionSummary | None:
        """Return the summary of an annotator's corrections; None if there are none."""
        rows = self._journal.rows(
            "SELECT * FROM corrections WHERE annotator = ? AND model = ? AND image = ?", annotator, model, image
        )
        if not rows:
            return None
        row = rows[0]
        return CorrectionSummary(
            state=row["state"], version=row["version"], count=row["count"], changed=row["changed"], file=row["file"]
        )

    def labels(self, summary: CorrectionSummary) -> NDArray[np.integer] | None:
        """Return the labels after the last correction; None if their file is missing or damaged."""
        found = read_arrays(self._folder / summary.file, "ids")
        return None if found is None else found[0]

    def keep(self, key: tuple[str, str, str], summary: CorrectionSummary, ids: NDArray[np.integer]) -> list[str]:
        """Store the labels after a correction in place of those before it.

        Args:
            key: annotator, model and image.
            summary: summary to store; its ``file`` is set here.
            ids: the labels.

        Returns:
            Notes; one note if others' corrections were dropped to make room.
        """
        name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32] + ".npz"
        with self._lock:
            write_arrays(self._folder / name, ids=ids)
            self._journal.change(
                "INSERT INTO corrections VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (annotator, model, image) DO UPDATE SET "
                "state = excluded.state, version = excluded.version, count = excluded.count, changed = excluded.changed, file = excluded.file",
                *key, summary.state, summary.version, summary.count, summary.changed, name,
            )  # fmt: skip
            return self._make_room()

    def _make_room(self) -> list[str]:
        old = self._journal.rows(
            "SELECT annotator, model, image, file FROM corrections WHERE file != '' ORDER BY changed DESC LIMIT -1 OFFSET ?",
            self._most,
        )
        for row in old:
            (self._folder / row["file"]).unlink(missing_ok=True)
            # the row stays, so that its annotator gets a note
            self._journal.change(
                "UPDATE corrections SET file = '' WHERE annotator = ? AND model = ? AND image = ?",
                row["annotator"], row["model"], row["image"],
            )  # fmt: skip
        images = ", ".join(dict.fromkeys(row["image"] for row in old))
        return (
            [f"Only the newest {self._most} corrected images are kept; those of {images} were dropped."] if old else []
        )

    def drop(self, annotator: str, model: str, image: str) -> CorrectionSummary | None:
        """Delete an annotator's corrections of an image; return their summary."""
        with self._lock:
            summary = self.summary(annotator, model, image)
            if summary is not None:
                self._remove("annotator = ? AND model = ? AND image = ?", annotator, model, image)
            return summary

    def drop_image(self, image: str) -> None:
        """Delete all annotators' corrections of a removed image, such as one of an ended session."""
        with self._lock:
            self._remove("image = ?", image)

    def _remove(self, where: str, *values: str) -> None:
        for row in self._journal.rows(f"SELECT file FROM corrections WHERE {where}", *values):
            if row["file"]:
                (self._folder / row["file"]).unlink(missing_ok=True)
        self._journal.change(f"DELETE FROM corrections WHERE {where}", *values)
