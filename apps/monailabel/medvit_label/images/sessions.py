"""Images that a client sends for a limited time, outside the project: stored in files and listed in the journal."""

from __future__ import annotations

import os
import re
import shutil
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medvit_label.errors import UnknownError
from medvit_label.images.source import LabelImage
from medvit_label.journal import Journal

__all__ = ["SessionRepository"]

_ID = re.compile(r"[0-9a-f]{32}")


class SessionRepository:
    """Repository of sessions; their images are in ``<state>/sessions``.

    Args:
        folder: folder of the project's state.
        journal: the project's journal.
        longest_s: longest lifetime of an unused session in seconds.
        ended: called with the image's id when a session ends.
    """

    def __init__(
        self, folder: Path, journal: Journal, longest_s: int, ended: Callable[[str], None] = lambda _: None
    ) -> None:
        self._folder, self._journal, self._longest = folder / "sessions", journal, longest_s
        self._ended = ended
        self.sweep()

    def add(self, file: Path, expiry: int) -> dict[str, Any]:
        """Start a session with an image file, which is moved into the session's folder."""
        name = uuid.uuid4().hex
        place = self._folder / name
        place.mkdir(parents=True)
        target = place / file.name
        os.replace(file, target)
        now, life = time.time(), min(expiry if expiry > 0 else self._longest, self._longest)
        self._journal.change("INSERT INTO sessions VALUES (?, ?, ?, ?, ?)", name, file.name, now, now, life)
        return self.summary(name)

    def summary(self, name: str) -> dict[str, Any]:
        """Return a session in the form that clients get, without paths."""
        row = self._row(name)
        times = {"create_ts": int(row["created"]), "last_access_ts": int(row["used"]), "expiry": int(row["expiry"])}
        return {"session_id": name, "session_info": {"name": name, "image": row["file"], "meta": {}, **times}}

    def image(self, name: str) -> LabelImage:
        """Return a session's image, and extend the session.

        Raises:
            UnknownError: there is no such session, or it expired.
        """
        row = self._row(name)
        self._journal.change("UPDATE sessions SET used = ? WHERE id = ?", time.time(), name)
        return LabelImage(id=f"session {name}", path=self._folder / name / row["file"])

    def remove(self, name: str) -> dict[str, Any]:
        """End a session and delete its image."""
        shown = self.summary(name)
        self._drop(name)
        return shown

    def sweep(self) -> int:
        """Remove expired sessions; return their number."""
        now = time.time()
        old = [row["id"] for row in self._journal.rows("SELECT id FROM sessions WHERE used + expiry < ?", now)]
        for name in old:
            self._drop(name)
        return len(old)

    def _drop(self, name: str) -> None:
        self._journal.change("DELETE FROM sessions WHERE id = ?", name)
        shutil.rmtree(self._folder / name, ignore_errors=True)
        self._ended(f"session {name}")

    def _row(self, name: str) -> dict[str, Any]:
        rows = self._journal.rows("SELECT * FROM sessions WHERE id = ?", name) if _ID.fullmatch(name) else []
        if (
            not rows
            or rows[0]["used"] + rows[0]["expiry"] < time.time()
            or not (self._folder / name / rows[0]["file"]).is_file()
        ):
            raise UnknownError(f"no session {name[:40]!r}", "it may have expired", "Create it again.")
        return rows[0]
