"""Images that a client sends for a while, outside of the project: kept in files, remembered in the journal."""

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
from medvit_label.images.local import Image
from medvit_label.journal import Journal

__all__ = ["Sessions"]

_ID = re.compile(r"[0-9a-f]{32}")


class Sessions:
    """Sessions under ``<state>/sessions``.

    Args:
        folder: the project's state.
        journal: where they are written down.
        longest_s: seconds a session that nobody uses may live.
        ended: told the image's id of a session that ends.
    """

    def __init__(
        self, folder: Path, journal: Journal, longest_s: int, ended: Callable[[str], None] = lambda _: None
    ) -> None:
        self._folder, self._journal, self._longest = folder / "sessions", journal, longest_s
        self._ended = ended
        self.sweep()

    def add(self, file: Path, expiry: int) -> dict[str, Any]:
        """Begin a session with an image, which is moved."""
        name = uuid.uuid4().hex
        place = self._folder / name
        place.mkdir(parents=True)
        target = place / file.name
        os.replace(file, target)
        now, life = time.time(), min(expiry if expiry > 0 else self._longest, self._longest)
        self._journal.change("INSERT INTO sessions VALUES (?, ?, ?, ?, ?)", name, file.name, now, now, life)
        return self.shown(name)

    def shown(self, name: str) -> dict[str, Any]:
        """A session as clients see it; no path is told."""
        row = self._row(name)
        times = {"create_ts": int(row["created"]), "last_access_ts": int(row["used"]), "expiry": int(row["expiry"])}
        return {"session_id": name, "session_info": {"name": name, "image": row["file"], "meta": {}, **times}}

    def image(self, name: str) -> Image:
        """A session's image; using it lets the session live on.

        Raises:
            UnknownError: no such session, or it expired.
        """
        row = self._row(name)
        self._journal.change("UPDATE sessions SET used = ? WHERE id = ?", time.time(), name)
        return Image(f"session {name}", self._folder / name / row["file"])

    def remove(self, name: str) -> dict[str, Any]:
        """End a session and delete its image."""
        shown = self.shown(name)
        self._drop(name)
        return shown

    def sweep(self) -> int:
        """Remove sessions that expired; return how many."""
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
            raise UnknownError(f"Found no session {name[:40]!r}; it may have expired. Create it again.")
        return rows[0]
