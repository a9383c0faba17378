"""Journal of a project: one SQLite file with all state that lasts beyond the server. Repositories hold the SQL
statements.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medvit.errors import MedvitError, OutputError

__all__ = ["JOURNAL", "Journal"]

JOURNAL = "journal.sqlite"

SCHEMA_VERSION = 0
"""Version of the tables in SQLite's ``user_version``; a release that changes the tables raises it."""

_TABLES = """
CREATE TABLE IF NOT EXISTS images (id TEXT PRIMARY KEY, info TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS labels (
    image TEXT NOT NULL, tag TEXT NOT NULL, version INTEGER NOT NULL, file TEXT NOT NULL, created REAL NOT NULL,
    info TEXT NOT NULL, hidden INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (image, tag, version));
CREATE TABLE IF NOT EXISTS sessions (id TEXT PRIMARY KEY, file TEXT NOT NULL, created REAL NOT NULL, used REAL NOT NULL, expiry REAL NOT NULL);
CREATE TABLE IF NOT EXISTS assignments (image TEXT NOT NULL, strategy TEXT NOT NULL, client TEXT NOT NULL, created REAL NOT NULL);
CREATE TABLE IF NOT EXISTS quality (image TEXT NOT NULL, model TEXT NOT NULL, content TEXT NOT NULL, PRIMARY KEY (image, model));
CREATE TABLE IF NOT EXISTS parts (model TEXT NOT NULL, image TEXT NOT NULL, part TEXT NOT NULL, PRIMARY KEY (model, image));
CREATE TABLE IF NOT EXISTS trainings (id TEXT PRIMARY KEY, model TEXT NOT NULL, state TEXT NOT NULL, created REAL NOT NULL, ended REAL, info TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS batches (id TEXT PRIMARY KEY, model TEXT NOT NULL, state TEXT NOT NULL, created REAL NOT NULL, ended REAL, info TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS versions (model TEXT NOT NULL, version INTEGER NOT NULL, created REAL NOT NULL, info TEXT NOT NULL, PRIMARY KEY (model, version));
CREATE TABLE IF NOT EXISTS chosen (
    image TEXT NOT NULL, tag TEXT NOT NULL, version INTEGER NOT NULL, by TEXT NOT NULL, created REAL NOT NULL, PRIMARY KEY (image, tag));
CREATE TABLE IF NOT EXISTS corrections (
    annotator TEXT NOT NULL, model TEXT NOT NULL, image TEXT NOT NULL, state TEXT NOT NULL, version TEXT NOT NULL, count INTEGER NOT NULL,
    changed REAL NOT NULL, file TEXT NOT NULL, PRIMARY KEY (annotator, model, image));
CREATE TABLE IF NOT EXISTS work (image TEXT NOT NULL, annotator TEXT NOT NULL, action TEXT NOT NULL, at REAL NOT NULL, PRIMARY KEY (image, annotator));
CREATE TABLE IF NOT EXISTS serving (model TEXT PRIMARY KEY, version INTEGER NOT NULL);
"""


class Journal:
    """Connection to ``journal.sqlite``; every change is on the disk when its call returns.

    Args:
        folder: folder of ``journal.sqlite``; it is created if it does not exist.

    Raises:
        OutputError: the folder cannot be written, or a newer release made the journal.
    """

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(folder / JOURNAL, check_same_thread=False, isolation_level=None)
            self._database.row_factory = sqlite3.Row
            (version,) = self._database.execute("PRAGMA user_version").fetchone()
            if version > SCHEMA_VERSION:
                raise OutputError(
                    f"a journal of version {version} in {folder}, as a newer release of medvit writes it",
                    f"version {SCHEMA_VERSION} is needed",
                    "Update medvit, or give another --state.",
                )
            if self._database.execute("SELECT 1 FROM sqlite_master WHERE name = 'picks'").fetchone():
                self._database.execute("ALTER TABLE picks RENAME TO assignments")  # its name in earlier versions
            self._database.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;" + _TABLES)
        except MedvitError:
            raise
        except (OSError, sqlite3.Error) as error:
            raise OutputError(
                f"that labels cannot be kept in {folder} ({error})",
                "a folder that can be written is needed",
                "Give --state.",
            ) from error
        self._lock = threading.RLock()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make several changes as one transaction: all of them, or none."""
        with self._lock:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")

    def rows(self, query: str, *values: Any) -> list[dict[str, Any]]:
        """Return the rows of a query."""
        with self._lock:
            return [dict(row) for row in self._database.execute(query, values).fetchall()]

    def change(self, query: str, *values: Any) -> None:
        """Execute a change."""
        with self._lock:
            self._database.execute(query, values)
