"""Repository of a project's images: those of the source, with notes of clients, and those of sessions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from medvit_label.errors import RequestError
from medvit_label.images.sessions import SessionRepository
from medvit_label.images.source import ImageSource, LabelImage
from medvit_label.journal import Journal

__all__ = ["ImageRepository"]


class ImageRepository:
    """Repository of a project's images.

    Args:
        source: a local folder or a DICOMweb service.
        sessions: images that clients send for a limited time.
        journal: the project's journal.
    """

    def __init__(self, source: ImageSource, sessions: SessionRepository, journal: Journal) -> None:
        self._source, self.sessions, self._journal = source, sessions, journal

    @property
    def keeps_segs(self) -> bool:
        """True if the source stores the SEG of a final label beside its image."""
        return self._source.keeps_segs

    def listed(self) -> dict[str, LabelImage]:
        """Return all images of the project by id."""
        return self._source.listed()

    def find(self, name: str) -> LabelImage:
        """Return the image of an id, ready to be opened.

        Raises:
            UnknownError: there is no such image.
        """
        return self._source.find(name)

    def named(self, image: str, session: str) -> LabelImage:
        """Return the image that a request names, of the project or of a session.

        Raises:
            RequestError: the request names no image. UnknownError: there is no such image.
        """
        if session:
            return self.sessions.image(session)
        if not image:
            raise RequestError("neither an image, a file nor a session in the request", "name one")
        return self.find(image)

    def add(self, name: str, file: Path) -> str:
        """Add an uploaded file to the project; return its id.

        Raises:
            RequestError: the name is not allowed or taken. AccessError: the source accepts no images.
        """
        return self._source.add(name, file)

    def store(self, seg: Path) -> dict[str, Any]:
        """Store a label's DICOM SEG at the source of its image; return facts to store with the label."""
        return self._source.store(seg)

    def info(self, image: str) -> dict[str, Any]:
        """Return the notes of clients on an image."""
        rows = self._journal.rows("SELECT info FROM images WHERE id = ?", image)
        return dict(json.loads(rows[0]["info"])) if rows else {}

    def note(self, image: str, info: dict[str, Any]) -> None:
        """Add notes of a client to an image."""
        with self._journal.transaction():
            merged = json.dumps(self.info(image) | info)
            self._journal.change(
                "INSERT INTO images VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET info = excluded.info", image, merged
            )
