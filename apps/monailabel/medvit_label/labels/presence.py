"""Annotators at work: recent runs, corrections and labels of an image, to notify a second annotator."""

from __future__ import annotations

import time

from medvit_label.annotators import shown_name
from medvit_label.journal import Journal
from medvit_label.labels.saved_corrections import moment

__all__ = ["Presence"]

_LATELY_S = 8 * 3600.0
"""Seconds for which work on an image is told to others: a working day."""


class Presence:
    """The last thing each annotator did with each image.

    Args:
        journal: where it is written down.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def note(self, image: str, annotator: str, action: str) -> list[str]:
        """Write down what an annotator did with an image; return what others lately did with it, in words.

        Args:
            image: the image's id.
            annotator: who.
            action: "taken", "run", "corrected" or "submitted".
        """
        self._journal.change(
            "INSERT INTO work VALUES (?, ?, ?, ?) ON CONFLICT (image, annotator) DO UPDATE SET action = excluded.action, at = excluded.at",
            image, annotator, action, time.time(),
        )  # fmt: skip
        return self.others(image, annotator)

    def others(self, image: str, annotator: str) -> list[str]:
        """Describe the recent work of other annotators on an image, one sentence each."""
        rows = self._journal.rows(
            "SELECT * FROM work WHERE image = ? AND annotator != ? AND at > ? ORDER BY at",
            image, annotator, time.time() - _LATELY_S,
        )  # fmt: skip
        return [
            f"{shown_name(row['annotator'])} works on this image too ({row['action']}, {moment(row['at'])})."
            for row in rows
        ]
