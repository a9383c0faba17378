"""Groups of a catalogue's images: a series of loose files, a series in a zip, an image file."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from medvit.io import NAMED_ALIKE, NOWHERE, Lost, without_digits
from medvit.io.dicom.header import Identity, PlaneHeader, differing, keyed, resolved_issuers
from medvit.io.dicom.preflight import Preflight, SeriesVolume, differing_versions
from medvit_batch.catalogue.file_headers import dicom_file, planes_of

__all__ = ["ARCHIVE", "Group", "Groups", "Image", "alias", "found_in", "full_path"]

_JOINED = "SELECT f.*, d.path FROM files f JOIN folders d ON d.id=f.folder"


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """Images of one series in one place: the loose files of the archive, or one zip.

    Attributes:
        inside: number of the zip that holds the series; 0 for loose files. Together with ``series``, the key in the
            catalogue.
        series: SeriesInstanceUID, or a substitute if the headers state none.
        place: empty for loose files, else a short hash of the zip's path.
        planes: all planes of the series.
        damaged: (alias, reason) of damaged files that belong to the series.
        doubtful: number of damaged files in the same folders that may belong to this or another series.
        lost: (alias, reason) of unreadable files in the same folders that may be slices of the series.
        changed: time at which the newest file arrived, in nanoseconds.
        file_signature: hash of the files' paths, sizes, times and headers; it changes when a file is touched.
        patient: keyed fingerprint of the patient's identity in the headers.
        issuer: issuer of the PatientID, if another series of the archive or the user states it and the headers do not.
        question: reason why a person must decide which patient the series belongs to; empty if that is clear.
        several: True if people share this PatientID and only their names and birth dates, both different, tell them apart.
            A result carries the patient of its own images, so ``question`` counts only where pseudonyms would join these people.
    """

    inside: int
    series: str
    place: str
    planes: tuple[PlaneHeader, ...]
    damaged: tuple[tuple[str, str], ...]
    doubtful: int
    lost: tuple[Lost, ...]
    changed: int
    file_signature: str
    patient: str = ""
    issuer: str = ""
    question: str = ""
    several: bool = False


@dataclass(frozen=True)
class _Patients:
    """Identities of the patients in an archive: issuers by identity, and series that occur under several patients."""

    issuers: dict[Identity, str | None]
    disputed: dict[str, tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class Image:
    """An image file of another format, or a zip that holds exactly one.

    Attributes:
        alias: name of the file outside the catalogue.
        path: path of the file.
        place: hash of the path.
        changed, file_signature: see ``Group``.
    """

    alias: str
    path: Path
    place: str
    changed: int
    file_signature: str


class Groups:
    """Series and image files that the last walk of a catalogue saw.

    Args:
        base: database of the catalogue.
        seen: number of the last walk.
        secret: key of the fingerprints.
    """

    def __init__(self, base: sqlite3.Connection, seen: int, secret: bytes) -> None:
        self.base, self.seen, self.secret = base, seen, secret
        self.assumed = ""
        """Issuer that the user states for each PatientID without one."""

        self.patients: _Patients | None = None
        self.beside: tuple[dict[tuple[int, str], list[sqlite3.Row]], dict[int, int]] | None = None

    def groups(self) -> Iterator[Group]:
        """Yield each series with images that the last walk saw; only one is held in memory at a time."""
        rows = self.base.execute(
            "SELECT DISTINCT CASE WHEN entry='' THEN 0 ELSE folder END AS inside, series FROM files "
            "WHERE seen=? AND kind='planes' ORDER BY inside, series",
            (self.seen,),
        ).fetchall()
        for row in rows:
            group = self.group(row["inside"], row["series"])
            if group is not None:
                yield group

    def group(self, inside: int, series: str) -> Group | None:
        """Return the images of one series; None if the last walk saw none of them."""
        if self.beside is None:
            self.beside = self._damaged()
        certain, doubtful = self.beside
        where = "f.folder=? AND entry<>''" if inside else "?=0 AND entry=''"
        rows = self.base.execute(
            f"{_JOINED} WHERE {where} AND f.seen=? AND kind='planes' AND series=? ORDER BY f.id",
            (inside, self.seen, series),
        ).fetchall()
        if not rows:
            return None
        planes = _planes(rows)
        homes = {row["folder"] for row in rows}
        bad = certain.get((inside, series), [])
        home = planes[0].file.folder
        identities = {plane.patient for plane in planes}
        issuer, question, several = self._decided(series, identities)
        lost = self._lost(rows)
        return Group(
            inside=inside,
            series=series,
            place=_short(rows[0]["path"]) if inside else "",
            planes=tuple(planes),
            damaged=tuple((f"{home}/f{row['id']}", row["detail"]) for row in bad),
            doubtful=sum(doubtful.get(folder, 0) for folder in homes),
            lost=tuple((alias(row), why) for row, why in lost),
            changed=max(row["changed"] for row in (*rows, *bad)),
            file_signature=_stamp((*rows, *bad, *(row for row, _ in lost)), self.secret),
            patient=keyed(self.secret, identities),
            issuer=issuer,
            question=question,
            several=several,
        )

    def _decided(self, series: str, identities: set[Identity]) -> tuple[str, str, bool]:
        """Return the issuer of a series' PatientID, the reason why a person must decide (empty if none), and
        ``Group.several``.
        """
        if self.patients is None:
            self.patients = self._look_at_patients()
        words = self.patients.disputed.get(series)
        if words is not None:
            return (
                "",
                (
                    f"Found this series more than once in the archive, in versions that differ in {' and '.join(words)}; its result would "
                    "carry one of them. Decide which is right, move the other away, and run again."
                ),
                False,
            )
        issuers = [self.patients.issuers.get(identity, identity.issuer) for identity in identities]
        if None in issuers:
            numbers = {identity.number for identity in identities}
            if not any(known.issuer for known in self.patients.issuers if known.number in numbers):
                return (
                    "",
                    (
                        "Found a PatientID that the archive has under different names and different birth dates, without IssuerOfPatientID; "
                        "a person has to decide if it is one patient. Say with --issuer NAME that one institution issued the number, to one "
                        "patient, or correct the headers, and run again."
                    ),
                    True,
                )
            return (
                "",
                (
                    "Found a PatientID that the archive has with and without IssuerOfPatientID, where name and birth date do not settle "
                    "if it is one patient; a person has to decide. Say with --issuer NAME who issued the numbers without an issuer, or correct "
                    "the headers, and run again."
                ),
                False,
            )
        return next((issuer for issuer in issuers if issuer), ""), "", False

    def _look_at_patients(self) -> _Patients:
        rows = self.base.execute(
            "SELECT DISTINCT CASE WHEN entry='' THEN 0 ELSE folder END AS inside, series, patient FROM files "
            "WHERE seen=? AND kind='planes'",
            (self.seen,),
        )
        places: dict[str, dict[int, set[Identity]]] = defaultdict(lambda: defaultdict(set))
        for row in rows.fetchall():
            places[row["series"]][row["inside"]] |= {Identity(*values) for values in json.loads(row["patient"])}
        everybody = {identity for found in places.values() for group in found.values() for identity in group}
        disputed = {}
        for series, found in places.items():
            if len(found) > 1:
                pairs = itertools.combinations(found.values(), 2)
                words = [w for one, two in pairs for a in one for b in two for w in differing(a, b, absent=False)]
                words += self._between_versions(series)
                if words:
                    disputed[series] = tuple(dict.fromkeys(words))
        return _Patients(resolved_issuers(everybody, self.assumed), disputed)

    def _between_versions(self, series: str) -> list[str]:
        """List the fields in which versions of one image differ, for a series that lies in several places (at least one
        is a zip).
        """
        rows = self.base.execute(
            f"{_JOINED} WHERE f.seen=? AND kind='planes' AND series=? ORDER BY f.id", (self.seen, series)
        )
        return differing_versions(_planes(rows.fetchall()))[1]

    def _lost(self, rows: list[sqlite3.Row]) -> list[tuple[sqlite3.Row, str]]:
        """Return files beside those of a series, with reasons, that may be slices of it and are unreadable or empty."""
        homes = {alias(row).rpartition("/")[0] for row in rows}
        names = {(alias(row).rpartition("/")[0], without_digits(_name(row))) for row in rows}
        beside = self.base.execute(
            f"{_JOINED} WHERE f.seen=? AND kind IN ('missing', 'unreadable', 'other') AND f.folder IN "
            f"({','.join('?' * len({row['folder'] for row in rows}))}) ORDER BY f.id",
            (self.seen, *{row["folder"] for row in rows}),
        ).fetchall()
        found = []
        for row in beside:
            home = alias(row).rpartition("/")[0]
            if row["kind"] != "other" and home in homes:
                found.append((row, row["detail"] or NOWHERE))
            elif row["kind"] == "other" and (home, without_digits(_name(row))) in names:
                found.append((row, NAMED_ALIKE))
        return found

    def _damaged(self) -> tuple[dict[tuple[int, str], list[sqlite3.Row]], dict[int, int]]:
        """Return the damaged files by the series they belong to, and by folder the number that may belong to several."""
        certain: dict[tuple[int, str], list[sqlite3.Row]] = defaultdict(list)
        doubtful: dict[int, int] = defaultdict(int)
        rows = self.base.execute(
            f"{_JOINED} WHERE f.seen=? AND kind='damaged' AND d.zip>=0",
            (self.seen,),
        ).fetchall()
        for row in rows:
            inside = row["folder"] if row["entry"] else 0
            if row["series"]:
                certain[inside, row["series"]].append(row)
                continue
            beside = self.base.execute(
                "SELECT DISTINCT series FROM files WHERE folder=? AND seen=? AND kind='planes'",
                (row["folder"], self.seen),
            ).fetchall()
            if len(beside) == 1:
                certain[inside, beside[0]["series"]].append(row)
            else:
                doubtful[row["folder"]] += 1
        return certain, doubtful

    def images(self) -> Iterator[Image]:
        """Yield each image file of another format that the last walk saw."""
        rows = self.base.execute(
            f"{_JOINED} WHERE f.seen=? AND kind='image' ORDER BY f.id",
            (self.seen,),
        )
        for row in rows.fetchall():
            path = full_path(row)
            yield Image(
                alias=alias(row),
                path=Path(os.fsdecode(path)),
                place=_short(path),
                changed=row["changed"],
                file_signature=_stamp([row], self.secret),
            )


def _planes(rows: Iterable[sqlite3.Row]) -> list[PlaneHeader]:
    planes: list[PlaneHeader] = []
    for row in rows:
        planes += planes_of(row["planes"], dicom_file(alias(row), full_path(row), row["entry"], row["size"]))
    return planes


def alias(row: sqlite3.Row) -> str:
    """Return the name of a file outside the catalogue."""
    within = row["entry"].replace("\\", "/").rpartition("/")[0]
    apart = f"-{_short(within.encode('utf-8', 'surrogateescape'))[:4]}" if within else ""
    return f"d{row['folder']}{apart}/f{row['id']}"


def _name(row: sqlite3.Row) -> str:
    return row["entry"] or os.fsdecode(row["name"])


def full_path(row: sqlite3.Row) -> bytes:
    """Return the path of a file; for an entry of a zip, that of the zip."""
    path: bytes = row["path"]
    return path if row["entry"] else os.path.join(path, row["name"])  # noqa: PTH118 - bytes


def _short(path: bytes) -> str:
    return hashlib.sha256(path).hexdigest()[:16]


def _stamp(rows: Iterable[sqlite3.Row], secret: bytes) -> str:
    digest = hashlib.blake2b(key=secret, digest_size=32)
    for row in sorted(rows, key=lambda r: (full_path(r), r["entry"])):
        digest.update(
            repr((full_path(row), row["entry"], row["size"], row["modified"], row["planes"])).encode(
                "utf-8", "surrogateescape"
            )
        )
    return digest.hexdigest()


ARCHIVE = "the archive"
"""Name of the source in messages."""


def found_in(group: Group, volumes: tuple[SeriesVolume, ...]) -> Preflight:
    """Return the preflight of a series as if it lay alone in a folder."""
    return Preflight(
        files=len(group.planes), volumes=volumes, objects={}, damaged=group.damaged, other=0, lost=group.lost
    )
