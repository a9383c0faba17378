"""Atomic saving of results: the folder is checked; files are written to a staging folder, hashed, recorded and
published.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvit.atomic_write import HIDDEN, hashes_within, os_errors_as_output_errors, publish, staging_folder
from medvit.errors import OutputError

if TYPE_CHECKING:
    from medvit.bundles import Bundle
    from medvit.progress import Progress
    from medvit.reports import RecordedResult

__all__ = [
    "Record",
    "SavePlan",
    "SavedFiles",
    "SavedResult",
    "Writer",
    "check_folder",
    "publish_files",
    "publish_result",
    "write_statistics",
]

Writer = Callable[[Path], Iterable[str] | None]
"""A function that writes files to a folder and returns notes for their readers, if any."""

Record = Callable[[dict[str, str], tuple[str, ...]], Mapping[str, Any]]
"""A function that composes ``run.json`` from the sha256 of each file and the notes."""


@dataclass(frozen=True, kw_only=True)
class SavePlan:
    """The files of one save.

    Attributes:
        writers: functions that write the files, in this order.
        output_files: names or patterns of files that an earlier save may have left; those not written again are
            removed, other files stay.
        overwrite: True where the folder may contain files.
        not_written: requested outputs that cannot be written, with the reason.
        notes: actions of the plan beyond the request.

    Examples:
        >>> from medvit.tasks import SavePlan
        >>> def write_note(folder):
        ...     (folder / "note.txt").write_text("done")
        >>> SavePlan(writers=[write_note], output_files=["note.txt"]).overwrite
        False
    """

    writers: Sequence[Writer]
    output_files: Sequence[str]
    overwrite: bool = False
    not_written: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SavedFiles:
    """Published files.

    Attributes:
        folder: the folder.
        files: paths within it.
        notes: actions beyond the request, in plain words.

    Examples:
        >>> from pathlib import Path
        >>> from medvit.tasks import SavedFiles
        >>> SavedFiles(folder=Path("out"), files=("labels.nii.gz", "run.json")).notes
        ()
    """

    folder: Path
    files: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SavedResult(SavedFiles):
    """The published files of a result.

    Attributes:
        folder: the folder.
        files: paths within it.
        notes: actions beyond the request, in plain words.
        quality: the rating and its reasons, from ``quality()`` of the result.
        not_written: requested outputs that could not be written, with the reason; empty when all were written.

    Examples:
        >>> from pathlib import Path
        >>> from medvit.tasks import SavedResult
        >>> saved = SavedResult(folder=Path("out"), files=("run.json",), quality={"rating": "poor", "reasons": []})
        >>> saved.rating, saved.flagged
        ('poor', True)
    """

    quality: dict[str, Any]
    not_written: tuple[str, ...] = ()

    @property
    def rating(self) -> str:
        """The rating: good, uncalibrated, check or poor."""
        return str(self.quality["rating"])

    @property
    def flagged(self) -> bool:
        """True where a person must check: an output was not written, or the rating is poor (exit code 3)."""
        return bool(self.not_written) or self.rating == "poor"


def publish_result(
    result: RecordedResult, folder: str | os.PathLike[str], plan: SavePlan, record: Record
) -> SavedResult:
    """Write, hash and publish a result.

    Args:
        result: the result.
        folder: the folder to write; created.
        plan: the files to write.
        record: composes ``run.json`` from the files and all notes, including those of the result, without repetitions.

    Returns:
        The published files, with the rating.

    Raises:
        OutputError: the folder cannot be written, or already contains files.

    Examples:
        >>> from types import SimpleNamespace
        >>> from medvit.progress import Progress
        >>> from medvit.tasks import SavePlan, publish_result
        >>> result = SimpleNamespace(
        ...     notes=("One slice was missing.",), progress=Progress(), quality=lambda: {"rating": "check", "reasons": []}
        ... )
        >>> plan = SavePlan(writers=[], output_files=[])
        >>> publish_result(result, "rated", plan, lambda files, notes: {"notes": notes}).rating
        'check'
    """

    def with_all_notes(files: dict[str, str], notes: tuple[str, ...]) -> Mapping[str, Any]:
        return record(files, tuple(dict.fromkeys((*result.notes, *notes, *plan.not_written))))

    saved = publish_files(folder, plan, with_all_notes, result.progress)
    return SavedResult(
        folder=saved.folder,
        files=saved.files,
        quality=result.quality(),
        not_written=plan.not_written,
        notes=saved.notes,
    )


def publish_files(folder: str | os.PathLike[str], plan: SavePlan, record: Record, progress: Progress) -> SavedFiles:
    """Write files to a staging folder, hash them, record them in ``run.json``, and publish them together.

    Args:
        folder: the folder to write; created.
        plan: the files to write.
        record: composes ``run.json``; called after all other files are written.
        progress: shows the stage "write"; can cancel it.

    Returns:
        The published files.

    Raises:
        OutputError: the folder cannot be written, or already contains files.

    Examples:
        >>> from medvit.progress import Progress
        >>> from medvit.tasks import SavePlan, publish_files
        >>> def write_note(folder):
        ...     (folder / "note.txt").write_text("done")
        ...     return ["A note was written."]
        >>> plan = SavePlan(writers=[write_note], output_files=["note.txt"])
        >>> saved = publish_files("out", plan, lambda files, notes: {"files": files}, Progress())
        >>> saved.files, saved.notes
        (('note.txt', 'run.json'), ('A note was written.',))
    """
    final = Path(folder)
    check_folder(final, plan.overwrite)
    notes = list(plan.notes)
    with os_errors_as_output_errors(final), staging_folder(final) as staging:
        with progress.stage("write"):
            for write in plan.writers:
                progress.check()
                notes += write(staging) or ()
        files = hashes_within(staging)
        (staging / "run.json").write_text(json.dumps(record(files, tuple(notes)), indent=2) + "\n")
        progress.check()
        publish(staging, final, plan.output_files)
    return SavedFiles(folder=final, files=tuple(sorted([*files, "run.json"])), notes=tuple(notes))


def write_statistics(folder: Path, bundle: Bundle, content: Mapping[str, Any]) -> None:
    """Write ``statistics.json``: the bundle, its intended use, and a task's own numbers.

    Args:
        folder: an existing folder.
        bundle: the bundle.
        content: the task's numbers, which JSON can hold.

    Examples:
        >>> from pathlib import Path
        >>> from medvit.bundles import open_bundle
        >>> from medvit.tasks import write_statistics
        >>> write_statistics(Path("."), open_bundle("headneck_ct_swin_unetr"), {"labels": []})
        >>> Path("statistics.json").is_file()
        True
    """
    first = {"intended_use": bundle.intended_use, "bundle": f"{bundle.name} {bundle.version}"}
    (folder / "statistics.json").write_text(json.dumps({**first, **content}, indent=2) + "\n")


def check_folder(folder: Path, overwrite: bool) -> None:
    """Refuse an output folder that contains files or cannot be created, before any work is done.

    Args:
        folder: the folder; it need not exist.
        overwrite: True to accept a folder that contains files.

    Raises:
        OutputError: there is earlier output, a file in place of the folder, or no permission.

    Examples:
        >>> from pathlib import Path
        >>> from medvit.tasks import check_folder
        >>> Path("full").mkdir()
        >>> Path("full/run.json").touch()
        >>> check_folder(Path("new"), overwrite=False)
        >>> check_folder(Path("full"), overwrite=False)
        Traceback (most recent call last):
            ...
        medvit.errors.OutputError: Found files in full; ...
    """
    if folder.exists() and not folder.is_dir():
        raise OutputError(
            f"a file at {folder}, where the output folder should be",
            remedy="Choose another with {folder=...}.",
            option="folder",
        )
    if folder.is_dir() and _holds_something(folder) and not overwrite:
        raise OutputError(
            f"files in {folder}",
            "results are never written over silently",
            "Choose another folder or add {overwrite=True}.",
            option="overwrite",
        )
    with os_errors_as_output_errors(folder), staging_folder(folder):
        pass


def _holds_something(folder: Path) -> bool:
    return any(not path.name.startswith(HIDDEN) for path in folder.iterdir())
