"""Catalogue of an archive: the header of each file, read once and stored by path, size and times in
``catalogue.sqlite``.

The catalogue holds paths, which may contain patients' names. So it is as confidential as the archive, and only its
owner can read it. Everything that a batch shows to others names a file by its alias ``d3/f17``: the numbers of a folder
and a file in the catalogue.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path

from medvit.io import HOLLOW
from medvit.progress import Progress
from medvit_batch.catalogue.file_headers import LAYOUT, Record, Want, read_all
from medvit_batch.catalogue.folder_walk import Entry, Folder, walk
from medvit_batch.catalogue.header_pool import in_processes
from medvit_batch.catalogue.series_groups import Groups, alias, full_path
from medvit_batch.sqlite import connect

__all__ = ["Catalogue", "secret_of"]

_VERSION = 2
_UPGRADES = {1: "ALTER TABLE files RENAME COLUMN said TO detail"}
_SCHEMA = """
CREATE TABLE walks (number INTEGER PRIMARY KEY);
CREATE TABLE folders (id INTEGER PRIMARY KEY, path BLOB UNIQUE, zip INTEGER, links INTEGER, problem TEXT, seen INTEGER);
CREATE TABLE files (
  id INTEGER PRIMARY KEY, folder INTEGER, name BLOB, entry TEXT, size INTEGER, modified INTEGER, changed INTEGER, kind TEXT,
  series TEXT, detail TEXT, planes TEXT, seen INTEGER, UNIQUE (folder, name, entry));
CREATE INDEX of_series ON files (seen, kind, series);
"""
_CHUNK = 100
"""Number of files that are read at a time and stored in one transaction."""


class Catalogue(Groups):
    """Database of the headers of an archive's files. Only one process may write it at a time.

    Args:
        path: file of the database.
        secret: key of the fingerprints, taken from another catalogue; by default this catalogue's own key.
    """

    def __init__(self, path: Path, secret: bytes = b"") -> None:
        base = connect(path, _SCHEMA, _VERSION, durable=False, upgrades=_UPGRADES)
        _renew(base)
        super().__init__(
            base, int(base.execute("SELECT MAX(number) FROM walks").fetchone()[0] or 0), secret or _secret(base)
        )

    def close(self) -> None:
        """Close the database."""
        self.base.close()

    @contextmanager
    def _together(self) -> Iterator[None]:
        self.base.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self.base.execute("ROLLBACK")
            raise
        self.base.execute("COMMIT")

    def look(self, top: Path, leave_out: Path, progress: Progress, readers: int = 1) -> int:
        """Walk an archive and read each header that is new or has changed; return the number of files read.

        Args:
            top: the archive.
            leave_out: folder within the archive that is not read, because results are written to it.
            progress: receives the progress and can stop the walk.
            readers: number of processes that read headers.
        """
        self.seen += 1
        self.beside = self.patients = None
        self.base.execute("INSERT INTO walks VALUES (?)", (self.seen,))
        done = 0
        with progress.stage("discover"), ExitStack() as stack:
            chunks = _chunks(self._wanted(walk(top, leave_out), progress))
            for records in map(read_all, chunks) if readers < 2 else in_processes(stack, chunks, readers):
                with self._together():
                    for number, found in records:
                        self._store(number, found)
                done += len(records)
                progress.report("discover", done, done)
        self._forget(os.fsencode(os.path.realpath(top)))
        return done

    def _wanted(self, folders: Iterable[Folder], progress: Progress) -> Iterator[Want]:
        for folder in folders:
            progress.check()
            with self._together():
                wants = list(self._compare(folder))
            yield from wants

    def _compare(self, folder: Folder) -> Iterator[Want]:
        number = self._folder(folder.path, zipped=False, links=folder.links, problem=folder.problem)
        rows = self.base.execute(
            "SELECT id, name, size, modified, changed, kind FROM files WHERE folder=? AND entry=''", (number,)
        )
        known = {row["name"]: row for row in rows}
        same = []
        for entry in folder.files:
            path = os.path.join(folder.path, entry.name)  # noqa: PTH118 - bytes, which Path does not take
            row = known.get(entry.name)
            fits = row is not None and _state(row) == (entry.size, entry.modified, entry.changed)
            if row is not None and fits and row["kind"] not in ("unreadable", "new"):
                same.append((self.seen, entry.changed, row["id"]))
                if row["kind"] == "zip":
                    within = self._folder(path, zipped=True)
                    self.base.execute(
                        "UPDATE files SET seen=?, changed=? WHERE folder=?", (self.seen, entry.changed, within)
                    )
            else:
                yield Want(self._new(number, entry), path, entry.size)
        self.base.executemany("UPDATE files SET seen=?, changed=? WHERE id=?", same)
        for name, why in folder.lost:
            lost = self._new(number, Entry(name, 0, 0, 0))
            self.base.execute("UPDATE files SET kind='missing', detail=? WHERE id=?", (why, lost))
        for name in folder.hollow:
            hollow = self._new(number, Entry(name, 0, 0, 0))
            self.base.execute("UPDATE files SET kind='other', detail=? WHERE id=?", (HOLLOW, hollow))

    def _folder(self, path: bytes, zipped: bool, links: int = 0, problem: str = "") -> int:
        row = self.base.execute(
            "INSERT INTO folders (path, zip, links, problem, seen) VALUES (?,?,?,?,?) ON CONFLICT (path) DO UPDATE SET "
            "zip=excluded.zip, links=excluded.links, problem=excluded.problem, seen=excluded.seen RETURNING id",
            (path, zipped, links, problem, self.seen),
        ).fetchone()
        return int(row["id"])

    def _new(self, folder: int, entry: Entry) -> int:
        row = self.base.execute(
            "INSERT INTO files (folder, name, entry, size, modified, changed, kind, seen) VALUES (?,?,'',?,?,?,'new',?) "
            "ON CONFLICT (folder, name, entry) DO UPDATE SET size=excluded.size, modified=excluded.modified, "
            "changed=excluded.changed, kind='new', series=NULL, detail=NULL, planes=NULL, seen=excluded.seen RETURNING id",
            (folder, entry.name, entry.size, entry.modified, entry.changed, self.seen),
        ).fetchone()
        return int(row["id"])

    def _store(self, number: int, found: list[Record]) -> None:
        first, *entries = found
        series = first.series
        if series.startswith(
            "of "
        ):  # without a UID, series are told apart by their folder, whose number only this database has
            series += f"d{self.base.execute('SELECT folder FROM files WHERE id=?', (number,)).fetchone()['folder']}"
        self.base.execute(
            "UPDATE files SET kind=?, series=?, detail=?, planes=?, patient=? WHERE id=?",
            (first.kind, series, first.detail, first.planes, first.patient, number),
        )
        if first.kind != "zip":
            return
        row = self.base.execute("SELECT * FROM files WHERE id=?", (number,)).fetchone()
        home = self.base.execute("SELECT path FROM folders WHERE id=?", (row["folder"],)).fetchone()["path"]
        within = self._folder(os.path.join(home, row["name"]), zipped=True)  # noqa: PTH118 - bytes
        self.base.execute("DELETE FROM files WHERE folder=?", (within,))
        self.base.executemany(
            "INSERT OR IGNORE INTO files (folder, name, entry, size, modified, changed, kind, series, detail, planes, patient, seen) "
            "VALUES (?,?,?,?,?,?,?,?,?,?,?,?)",
            [
                (within, row["name"], r.entry, r.size, row["modified"], row["changed"], r.kind, r.series, r.detail, r.planes, r.patient, self.seen)
                for r in entries
            ],
        )  # fmt: skip

    def _forget(self, top: bytes) -> None:
        """Delete the entries of files that have disappeared from a folder below ``top``."""
        with self._together():
            for row in self.base.execute("SELECT id, path FROM folders").fetchall():
                if row["path"] == top or row["path"].startswith(top.rstrip(b"/") + b"/"):
                    self.base.execute("DELETE FROM files WHERE folder=? AND seen<?", (row["id"], self.seen))

    def counts(self) -> dict[str, int]:
        """Return the number of files of each kind in the last walk."""
        rows = self.base.execute(
            "SELECT kind, COUNT(*) AS n FROM files WHERE seen=? AND kind<>'zip' GROUP BY kind ORDER BY kind",
            (self.seen,),
        )
        return {row["kind"]: row["n"] for row in rows}

    def unused(self) -> list[tuple[str, str, str]]:
        """Return (alias, kind, reason) of each file and folder that belongs to no case and that a person may ask about."""
        rows = self.base.execute(
            "SELECT f.id, f.folder, f.entry, kind, detail FROM files f WHERE seen=? AND kind IN ('damaged', 'unreadable', 'missing', 'other') "
            "ORDER BY kind, f.id",
            (self.seen,),
        ).fetchall()
        found = [(alias(row), row["kind"], row["detail"] or "not DICOM") for row in rows]
        folders = self.base.execute("SELECT id, problem, links FROM folders WHERE seen=?", (self.seen,)).fetchall()
        found += [(f"d{row['id']}", "unreadable folder", row["problem"]) for row in folders if row["problem"]]
        found += [
            (f"d{row['id']}", "links", "a link to a folder that is read by another name")
            for row in folders
            if row["links"]
        ]
        return found

    def path_of(self, name: str) -> str | None:
        """Return the path of an alias; None if the catalogue does not know it (any more)."""
        number = name.rpartition("/")[2]
        table = {"f": "files", "d": "folders"}.get(number[:1])
        if table is None or not number[1:].isdigit():
            return None
        if table == "folders":
            row = self.base.execute("SELECT path FROM folders WHERE id=?", (int(number[1:]),)).fetchone()
            return None if row is None else os.fsdecode(row["path"])
        row = self.base.execute(
            "SELECT f.*, d.path FROM files f JOIN folders d ON d.id=f.folder WHERE f.id=?", (int(number[1:]),)
        ).fetchone()
        if row is None:
            return None
        return os.fsdecode(full_path(row)) + (f" : {row['entry']}" if row["entry"] else "")


def _state(row: sqlite3.Row) -> tuple[int, int, int]:
    """Return a file's size and times; a copied file may keep its size and time of writing, but never its time of
    change.
    """
    return row["size"], row["modified"], row["changed"]


def _renew(base: sqlite3.Connection) -> None:
    """Have each file read again if an earlier medvit stored other header fields; the files keep their numbers."""
    base.execute("CREATE TABLE IF NOT EXISTS layout (fields TEXT, secret BLOB)")
    row = base.execute("SELECT fields FROM layout").fetchone()
    known = {column["name"] for column in base.execute("PRAGMA table_info(files)")}
    if row is not None and row["fields"] == LAYOUT and "patient" in known:
        return
    if "patient" not in known:
        base.execute("ALTER TABLE files ADD COLUMN patient TEXT")
    if row is None:
        base.execute("INSERT INTO layout VALUES (?,?)", (LAYOUT, secrets.token_bytes(32)))
    base.execute("UPDATE files SET kind='new', series=NULL, planes=NULL")
    base.execute("UPDATE layout SET fields=?", (LAYOUT,))


def _secret(base: sqlite3.Connection) -> bytes:
    """Return the key of the fingerprints in the journal; the key keeps others from testing guesses against them."""
    return bytes(base.execute("SELECT secret FROM layout").fetchone()["secret"])


def secret_of(path: Path) -> bytes:
    """Return the secret of an existing catalogue; empty bytes if there is no catalogue."""
    if not path.is_file():
        return b""
    opened = Catalogue(path)
    opened.close()
    return opened.secret


def _chunks(wants: Iterator[Want]) -> Iterator[list[Want]]:
    while chunk := list(islice(wants, _CHUNK)):
        yield chunk
