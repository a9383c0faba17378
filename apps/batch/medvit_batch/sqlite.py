"""SQLite databases of a batch."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from pathlib import Path

from medvit_batch.errors import BatchError

__all__ = ["connect"]

_WAIT_MS = 20_000
"""Milliseconds to wait while another process writes."""


def connect(
    path: Path, schema: str, version: int, *, durable: bool, upgrades: Mapping[int, str] | None = None
) -> sqlite3.Connection:
    """Open a database in write-ahead mode that only its owner can read.

    Args:
        path: file of the database; created if missing.
        schema: statements that create its tables.
        version: version of the schema; another one is refused unless ``upgrades`` leads from it to this one.
        durable: True if a commit must survive a power failure, not only a kill.
        upgrades: statements that upgrade an older version to the next, by the older version.

    Raises:
        BatchError: the database is damaged, or of another version.
    """
    new = not path.exists()
    try:
        path.touch(mode=0o600)
        base = sqlite3.connect(path, isolation_level=None, timeout=_WAIT_MS / 1000)
        base.execute("PRAGMA journal_mode=WAL")
        base.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
        found = base.execute("PRAGMA user_version").fetchone()[0]
        if new or found == 0:
            base.executescript(f"BEGIN IMMEDIATE;\n{schema}\nPRAGMA user_version={version};\nCOMMIT;")
            found = version
        for older in range(found, version):
            if older not in (upgrades or {}):
                break
            found = _upgrade(base, older, (upgrades or {})[older])
    except (sqlite3.Error, OSError) as error:
        raise BatchError(
            f"{path.name}, which cannot be used ({error})",
            "a database that can be written is needed",
            (
                "Check the permissions of its folder; if it is damaged, put back a copy or choose another folder with "
                "-o."
            ),
        ) from error
    if found != version:
        base.close()
        raise BatchError(
            f"{path.name} of version {found}", f"this medvit writes version {version}", "Choose another folder with -o."
        )
    base.row_factory = sqlite3.Row
    return base


def _upgrade(base: sqlite3.Connection, older: int, statements: str) -> int:
    """Upgrade the tables to the next version in one transaction, unless another process has just done so."""
    base.execute("BEGIN IMMEDIATE")
    try:
        if base.execute("PRAGMA user_version").fetchone()[0] == older:
            for statement in statements.split(";"):
                base.execute(statement)
            base.execute(f"PRAGMA user_version={older + 1}")
        base.execute("COMMIT")
    except BaseException:
        base.execute("ROLLBACK")
        raise
    return int(base.execute("PRAGMA user_version").fetchone()[0])
