"""Repository of a project's labels: each saved label becomes a new version; none is ever overwritten."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any

from medvit.labels import Label
from medvit_label.annotators import Annotator, display_name
from medvit_label.errors import ArchiveError, RequestError, UnknownError, request_words
from medvit_label.images.source import ImageSource, LabelImage
from medvit_label.journal import Journal
from medvit_label.labels.label_files import label_map, write_label
from medvit_label.labels.label_info import read_label_info

__all__ = ["FINAL", "LabelRepository", "StoredLabel", "label_map"]

FINAL = "final"
_SEG = "seg.dcm"
_ARCHIVE, _WAITING, _HELD = "archive", "waiting", "held"
_OURS = frozenset({
    "annotator", "sha256", "notes", _ARCHIVE, "model", "bundle", "label_info", "volumes", "seconds", "agreement", "against", "version",
    "ts", "counts", "replace",
})  # fmt: skip
"""Keys of a label's info that clients cannot change once the label is stored."""

_SCORES = frozenset({_ARCHIVE, "volumes", "agreement", "against"})
"""Keys that only the server sets; they are removed from a client's submission."""

_TAG = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")


@dataclass(frozen=True, kw_only=True)
class StoredLabel:
    """One version of an image's label.

    Attributes:
        image: the image's id.
        tag: "final" for an annotator's submission, "original" for a model's answer, or another word.
        version: 1, 2, ...
        file: label map on the image's grid.
        created: time in seconds since 1970.
        info: the client's params, the file's hash, and notes.
    """

    image: str
    tag: str
    version: int
    file: Path
    created: float
    info: dict[str, Any]

    @property
    def annotator(self) -> str:
        """Annotator who submitted the label: name of an account, or a ``client_id``; empty if the client sent none."""
        return str(self.info.get("annotator", self.info.get("client_id")) or "")[:64]


class LabelRepository:
    """Repository of versioned labels in ``<state>/labels``; the journal holds their versions, and the choice among
    them.

    Args:
        folder: folder of the project's state.
        journal: the project's journal.
        images: source of the labelled images.
    """

    def __init__(self, folder: Path, journal: Journal, images: ImageSource) -> None:
        self._folder, self._journal, self._images = folder / "labels", journal, images
        self._saving = Lock()

    def save(
        self, image: LabelImage, file: Path, tag: str, table: tuple[Label, ...], info: dict[str, Any], who: Annotator | None = None
    ) -> StoredLabel:  # fmt: skip
        """Store a label on its image's grid as the next version.

        Args:
            image: the image.
            file: see ``write_label``.
            tag: "final", "original", or another word.
            table: labels whose ids, names and codes it uses.
            info: request's params, stored with the label; ``label_info`` names its numbers, ``replace`` makes it count
                in place of another's label.
            who: the annotator; None for the server itself.

        Raises:
            RequestError: the tag is not allowed, or a label is not in the table. MedvitError: the label does not fit the image.
        """
        if not _TAG.fullmatch(tag):
            raise RequestError(
                f"the tag {tag[:40]!r}", "a tag is a word of small letters and digits", "Use 'final' or 'original'."
            )
        names = read_label_info(info)
        place = self._folder / tag / _folder_of(image.id)
        place.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=".part-", dir=place))
        try:
            made, notes = write_label(image, file, aside, table, names)
            with self._saving:  # if two annotators submit at once, the second sees the label of the first
                before = self.standing(image.id, tag) if tag == FINAL else None
                counts = before is None or self._takes_over(before, who, info)
                sends = self._images.keeps_segs and tag == FINAL and (aside / _SEG).is_file()
                archive = {_ARCHIVE: _WAITING if counts else _HELD} if sends else {}
                own = {"annotator": who.name if who else "", "sha256": _sha256(made), "notes": list(notes)}
                given = _client_info(info)
                stored = self._publish(image, tag, aside, made.name, given | archive | own)
                if before is not None and counts and self.standing(image.id, tag) != stored:
                    self._choose(stored, who.name if who else "")
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        return self._archived(stored) if sends and counts else stored

    def _takes_over(self, before: StoredLabel, who: Annotator | None, info: dict[str, Any]) -> bool:
        """Return whether a new final label counts in place of the present one."""
        if who is None or who.supersedes or (info.get("replace") and who.reviews):
            return True
        pinned = self._pinned(before.image, before.tag)
        return before.annotator == who.name and (pinned is None or pinned["by"] == who.name)

    def _pinned(self, image: str, tag: str) -> dict[str, Any] | None:
        rows = self._journal.rows("SELECT * FROM chosen WHERE image = ? AND tag = ?", image, tag)
        return rows[0] if rows else None

    def _choose(self, label: StoredLabel, by: str) -> None:
        self._journal.change(
            "INSERT INTO chosen VALUES (?, ?, ?, ?, ?) ON CONFLICT (image, tag) DO UPDATE SET version = excluded.version, "
            "by = excluded.by, created = excluded.created",
            label.image, label.tag, label.version, by, time.time(),
        )  # fmt: skip

    def annotators_note(self, stored: StoredLabel) -> list[str]:
        """Return a note on the label that counts, and on choosing another, if several annotators submitted a final
        label; else no note.
        """
        if stored.tag != FINAL:
            return []
        newest = {label.annotator: label.version for label in self.versions(stored.image, stored.tag)}
        if len(newest) < 2:
            return []
        standing = self.standing(stored.image, stored.tag)
        assert standing is not None
        listed = ", ".join(f"{display_name(name)} (version {version})" for name, version in newest.items())
        counts = "this one counts" if standing.version == stored.version else "this one is kept and does not count"
        return [
            f"Labels of {len(newest)} annotators are kept for this image: {listed}. Version {standing.version} by "
            f"{display_name(standing.annotator)} counts, so {counts}. To let another count, a reviewer sends POST /datastore/label/choose?image=...&version=N."
        ]

    def standing(self, image: str, tag: str) -> StoredLabel | None:
        """Return the label that counts: the chosen one, else the newest of the first annotator; None if there is no
        label.
        """
        labels = self.versions(image, tag)
        if not labels or tag != FINAL:
            return labels[-1] if labels else None
        pinned = self._pinned(image, tag)
        chosen = next((label for label in labels if pinned and label.version == pinned["version"]), None)
        return chosen or [label for label in labels if label.annotator == labels[0].annotator][-1]

    def versions(self, image: str, tag: str) -> list[StoredLabel]:
        """Return all visible versions of an image's label, oldest first."""
        rows = self._journal.rows(
            "SELECT * FROM labels WHERE image = ? AND tag = ? AND hidden = 0 ORDER BY version", image, tag
        )
        return [_stored(self._folder, row) for row in rows]

    def choose(self, image: str, tag: str, version: int, who: Annotator) -> StoredLabel:
        """Choose the version that counts from now on; for DICOM, send its SEG to the archive.

        Raises:
            UnknownError: there is no such version.
        """
        label = self.latest(image, tag, version)
        with self._saving:
            self._choose(label, who.name)
        return self._released(label)

    def _released(self, label: StoredLabel) -> StoredLabel:
        """Send the SEG of a label that counts from now on, if it was held back; return the label with its new state."""
        if label.info.get(_ARCHIVE) != _HELD:
            return label
        label = replace(label, info=label.info | {_ARCHIVE: _WAITING})
        self._write(label)
        return self._archived(label)

    def _archived(self, stored: StoredLabel) -> StoredLabel:
        """Send a label's SEG to the archive, then those that could not be sent earlier; a failure adds a note and loses
        no label.
        """
        try:
            sent = self._send(stored)
            for earlier in self.all():
                if earlier.info.get(_ARCHIVE) == _WAITING and earlier.file.with_name(_SEG).is_file():
                    self._send(earlier)
        except ArchiveError as error:
            words = error.framed(after="The SEG is sent again with the next label.").sentence(request_words)
            return replace(stored, info=stored.info | {"notes": [*stored.info["notes"], words]})
        return sent

    def _send(self, stored: StoredLabel) -> StoredLabel:
        known = self._images.store(stored.file.with_name(_SEG))
        sent = replace(stored, info=stored.info | known | {_ARCHIVE: "stored"})
        self._write(sent)
        return sent

    def _write(self, label: StoredLabel) -> None:
        self._journal.change(
            "UPDATE labels SET info = ? WHERE image = ? AND tag = ? AND version = ?",
            json.dumps(label.info), label.image, label.tag, label.version,
        )  # fmt: skip

    def _publish(self, image: LabelImage, tag: str, aside: Path, name: str, info: dict[str, Any]) -> StoredLabel:
        with self._journal.transaction():
            rows = self._journal.rows(
                "SELECT MAX(version) AS last FROM labels WHERE image = ? AND tag = ?", image.id, tag
            )
            version = (rows[0]["last"] or 0) + 1
            final = aside.parent / f"v{version:04d}"
            while (
                final.exists()
            ):  # left by a server that was killed between the two steps: the folder is kept, and its number skipped
                version += 1
                final = aside.parent / f"v{version:04d}"
            os.replace(aside, final)
            now = time.time()
            where = str((final / name).relative_to(self._folder))
            self._journal.change(
                "INSERT INTO labels (image, tag, version, file, created, info) VALUES (?, ?, ?, ?, ?, ?)",
                image.id, tag, version, where, now, json.dumps(info),
            )  # fmt: skip
        return StoredLabel(image=image.id, tag=tag, version=version, file=final / name, created=now, info=info)

    def all(self) -> list[StoredLabel]:
        """Return each visible version, oldest first."""
        rows = self._journal.rows("SELECT * FROM labels WHERE hidden = 0 ORDER BY created, version")
        return [_stored(self._folder, row) for row in rows]

    def latest(self, image: str, tag: str, version: int | None = None) -> StoredLabel:
        """Return the label that counts (for tags other than "final" the newest version), or the version with the given number.

        Raises:
            UnknownError: the image has no such label, or its file is missing.
        """
        if version is None:
            found = self.standing(image, tag)
        else:
            found = next((label for label in self.versions(image, tag) if label.version == version), None)
        if found is None or not found.file.is_file():
            number = "" if version is None else f", version {version}"
            raise UnknownError(f"no {tag[:40]!r} label of {image[:80]!r}{number}", "ask for one that is listed")
        return found

    def finals(self) -> dict[str, StoredLabel]:
        """Return the final label that counts for each image that has one."""
        found = {name: self.standing(name, FINAL) for name in sorted(self.labelled())}
        return {name: label for name, label in found.items() if label is not None}

    def labelled(self) -> set[str]:
        """Return the images that have a final label."""
        return {
            row["image"]
            for row in self._journal.rows("SELECT DISTINCT image FROM labels WHERE tag = 'final' AND hidden = 0")
        }

    def unlabelled(self) -> list[LabelImage]:
        """Return the images without a final label, sorted by id."""
        labelled = self.labelled()
        return [image for name, image in sorted(self._images.listed().items()) if name not in labelled]

    def tags(self) -> dict[str, int]:
        """Return the number of images with a label, by tag."""
        query = "SELECT tag, COUNT(DISTINCT image) AS n FROM labels WHERE hidden = 0 GROUP BY tag"
        return {row["tag"]: row["n"] for row in self._journal.rows(query)}

    def hide(self, image: str, tag: str, version: int | None = None) -> StoredLabel | None:
        """Hide all versions of a label, or one of them, and keep their files; return the version that counts from now
        on.
        """
        if version is None and not self.versions(image, tag):
            self.latest(image, tag)  # raises UnknownError
        numbers = [self.latest(image, tag, version).version] if version is not None else []
        for number in numbers or [label.version for label in self.versions(image, tag)]:
            self._journal.change(
                "UPDATE labels SET hidden = 1 WHERE image = ? AND tag = ? AND version = ?", image, tag, number
            )
        standing = self.standing(image, tag)
        return None if standing is None else self._released(standing)

    def note(self, label: StoredLabel, info: dict[str, Any]) -> None:
        """Add facts to the stored information on a label."""
        now = self.latest(label.image, label.tag, label.version)
        self._write(replace(now, info=now.info | info))

    def note_from_client(self, label: StoredLabel, info: dict[str, Any]) -> list[str]:
        """Add a client's information on a label; return a note if it contains keys that only the server may set."""
        ours = sorted(_OURS & info.keys())
        self.note(label, {key: value for key, value in info.items() if key not in ours})
        return [f"Only the server sets these keys; they were left as they are: {', '.join(ours)}."] if ours else []


def _stored(folder: Path, row: dict[str, Any]) -> StoredLabel:
    return StoredLabel(
        image=row["image"],
        tag=row["tag"],
        version=row["version"],
        file=folder / row["file"],
        created=row["created"],
        info=json.loads(row["info"]),
    )


def _client_info(info: dict[str, Any]) -> dict[str, Any]:
    """Return the params of a submission without keys that only the server sets, and with seconds only as a number."""
    kept = {key: value for key, value in info.items() if key not in _SCORES}
    seconds = kept.get("seconds")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or seconds < 0:
        kept.pop("seconds", None)
    return kept


def _folder_of(image: str) -> str:
    """Return the name of the folder for an image's labels: the image's name made safe, and a hash that makes it unique."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", image).strip(".")[:80]
    return f"{safe}-{hashlib.sha256(image.encode()).hexdigest()[:8]}"


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
