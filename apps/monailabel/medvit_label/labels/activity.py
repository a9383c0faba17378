"""Activity of annotators: cases assigned to them, and their recent runs, corrections and labels of images."""

from __future__ import annotations

import time

from medvit_label.annotators import display_name
from medvit_label.journal import Journal
from medvit_label.labels.saved_corrections import format_time

__all__ = ["ActivityRepository"]

_RECENT_S = 8 * 3600.0
"""Seconds for which work on an image is reported to other annotators: a working day."""


class ActivityRepository:
    """Repository of assigned cases and of each annotator's last action on each image.

    Args:
        journal: the project's journal.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def assign(self, image: str, strategy: str, annotator: str) -> None:
        """Record that a case was assigned to an annotator."""
        self._journal.change("INSERT INTO assignments VALUES (?, ?, ?, ?)", image, strategy, annotator, time.time())

    def assigned_since(self, since: float) -> set[str]:
        """Return the images that were assigned after a time (seconds since 1970)."""
        rows = self._journal.rows("SELECT DISTINCT image FROM assignments WHERE created > ?", since)
        return {row["image"] for row in rows}

    def last_assigned(self, image: str) -> float | None:
        """Return the time at which an image was last assigned (seconds since 1970); None if it never was."""
        rows = self._journal.rows("SELECT MAX(created) AS last FROM assignments WHERE image = ?", image)
        last = rows[0]["last"]
        return None if last is None else float(last)

    def note(self, image: str, annotator: str, action: str) -> list[str]:
        """Record an action on an image; return one sentence for each other annotator who recently worked on the image.

        Args:
            image: the image's id.
            annotator: the annotator's name.
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
            image, annotator, time.time() - _RECENT_S,
        )  # fmt: skip
        return [
            f"{display_name(row['annotator'])} works on this image too ({row['action']}, {format_time(row['at'])})."
            for row in rows
        ]
