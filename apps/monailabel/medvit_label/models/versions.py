"""Versions of bundles trained in a project and stored with it; the installed bundle never changes."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from medvit.bundles import Bundle
from medvit.errors import BundleError, SourceError
from medvit_label.errors import UnknownError
from medvit_label.journal import JOURNAL, Journal
from medvit_label.settings import state_folder

__all__ = ["INSTALLED", "VersionRepository", "open_versions"]

INSTALLED = 0
"""Number of the bundle as installed."""

_MEDVIT_NAME = re.compile(rb"\bmedvit(?:\.\w+)+")


class VersionRepository:
    """Repository of versions in ``<state>/models/<bundle>/vNNNN/<bundle>``; the journal holds the number of the one
    that serves.

    Args:
        folder: folder of the project's state.
        journal: the project's journal.
    """

    def __init__(self, folder: Path, journal: Journal) -> None:
        self._folder, self._journal = folder / "models", journal

    def serving(self, model: str) -> int:
        """Return the number of the version that serves; ``INSTALLED`` for the bundle as installed."""
        rows = self._journal.rows("SELECT version FROM serving WHERE model = ?", model)
        return int(rows[0]["version"]) if rows else INSTALLED

    def bundle(self, installed: Bundle, number: int | None = None) -> Bundle:
        """Return the bundle of a version; by default the version that serves.

        Raises:
            BundleError: its files are missing, or its configs differ from those of the installed bundle.
        """
        number = self.serving(installed.name) if number is None else number
        if number == INSTALLED:
            return installed
        root = self._place(installed.name, number) / installed.name
        if not (root / "configs" / "metadata.json").is_file():
            raise BundleError(
                f"no files of version {number} of {installed.name} in the project",
                "they were removed",
                f"Put them back, or serve another: medvit label rollback {installed.name}.",
            )
        found = Bundle(root)
        _require_same_configs(found, installed, number)
        return found

    def publish(self, model: str, candidate: Path, info: dict[str, Any]) -> int:
        """Store a copy of a bundle as the next version and serve it; return its number."""
        place = self._folder / model
        place.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=".part-", dir=place))
        try:
            shutil.copytree(candidate, aside / model)
            with self._journal.transaction():
                number = self.next(model)
                while self._place(model, number).exists():  # left by a server that was killed between the two steps
                    number += 1
                os.replace(aside, self._place(model, number))
                self._journal.change(
                    "INSERT INTO versions VALUES (?, ?, ?, ?)", model, number, time.time(), json.dumps(info)
                )
                self._serve(model, number)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        return number

    def next(self, model: str) -> int:
        """Return the number of the next version."""
        rows = self._journal.rows("SELECT MAX(version) AS last FROM versions WHERE model = ?", model)
        return int(rows[0]["last"] or INSTALLED) + 1

    def roll_back(self, model: str, to: int | None = None) -> int:
        """Serve an earlier version, or any version by its number, and return the number; nothing is deleted.

        Args:
            model: the bundle's name.
            to: number of the version; None for the one from which the serving version was trained.

        Raises:
            UnknownError: there is no such version, or no earlier one.
        """
        now = self.serving(model)
        known = {row["version"]: row for row in self.listing(model)}
        if to is None:
            if now == INSTALLED:
                raise UnknownError(
                    f"that {model} is served as it was installed",
                    "there is no earlier version",
                    "Choose one by its number: --to.",
                )
            to = int(known[now].get("from", INSTALLED))
        if to not in known:
            raise UnknownError(
                f"no version {to} of {model}",
                f"there are: {', '.join(map(str, known))} (0 is as installed)",
                "Choose one of these.",
            )
        self._serve(model, to)
        return to

    def listing(self, model: str) -> list[dict[str, Any]]:
        """Return all versions, oldest first, with the facts of their training; the first is the installed bundle."""
        now = self.serving(model)
        rows = self._journal.rows("SELECT * FROM versions WHERE model = ? ORDER BY version", model)
        made = [{"version": r["version"], "created": r["created"], **json.loads(r["info"])} for r in rows]
        return [row | {"serving": row["version"] == now} for row in [{"version": INSTALLED}, *made]]

    def _serve(self, model: str, number: int) -> None:
        self._journal.change(
            "INSERT INTO serving VALUES (?, ?) ON CONFLICT (model) DO UPDATE SET version = excluded.version", model, number
        )  # fmt: skip

    def _place(self, model: str, number: int) -> Path:
        return self._folder / model / f"v{number:04d}"


def _require_same_configs(found: Bundle, installed: Bundle, number: int) -> None:
    """Refuse a version whose configs differ from those of the installed bundle.

    Configs can run code, so only metadata and weights may differ.

    Raises:
        BundleError: the configs differ; the message lists names of medvit that only the version uses.
    """
    theirs, ours = (
        {path.name: path.read_bytes() for path in (bundle.root / "configs").iterdir() if path.name != "metadata.json"}
        for bundle in (found, installed)
    )
    if theirs == ours:
        return
    names = sorted(_medvit_names(theirs) - _medvit_names(ours))
    if names:
        listed = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        raise BundleError(
            (
                f"names in the configs of version {number} of {installed.name} that the installed bundle does not use "
                f"({listed}), as an earlier release of medvit wrote them"
            ),
            "the configs of the installed bundle are needed, since configs can run code and only weights may differ",
            f"Train the version again, or serve the installed bundle: medvit label rollback {installed.name} --to 0.",
        )
    raise BundleError(
        f"configs in version {number} of {installed.name} that are not those of the installed bundle",
        "only weights may differ",
        (
            "The bundle was updated, or the project changed by hand: train it again, or medvit label rollback "
            f"{installed.name} --to 0."
        ),
    )


def _medvit_names(configs: dict[str, bytes]) -> set[str]:
    """Return the dotted names of medvit that configs contain."""
    return {name.decode() for content in configs.values() for name in _MEDVIT_NAME.findall(content)}


def open_versions(studies: str, state: Path | None) -> VersionRepository:
    """Open the repository of versions of a project, which may be served at the same time.

    Raises:
        SourceError: there is no such project.
    """
    folder = state_folder(studies, state)
    if not (folder / JOURNAL).is_file():
        raise SourceError(
            f"no project in {folder}",
            "one that was served before is needed",
            "Give --studies and --state as medvit label start had them.",
        )
    return VersionRepository(folder, Journal(folder))
