"""Publication of checked results: one rename gives a case's folder its final name; states left by a killed run are
repaired.

A worker writes ``staging/<case>`` through ``medvit.segmentation.save.save_result``, which verifies each object and
hashes and fsyncs each file. The journal says "checked" before the rename and "published" after it, so the next run can
tell at which step a run was killed.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from medvit.atomic_write import hashes_within, os_errors_as_output_errors
from medvit.errors import OutputError
from medvit_batch.cases import CASES, State, case_name
from medvit_batch.errors import BatchError
from medvit_batch.journal import JOURNAL, Journal

__all__ = [
    "RECEIVED",
    "exclusive_folder",
    "prepare",
    "publish_case",
    "recover",
    "remove_leftovers",
    "staging_path",
    "withdraw",
]

RECEIVED = "received"
"""Name of the folder for objects received over the network, in the output folder; it exists before the journal does."""

WITHDRAWN = "withdrawn"
"""Name of the folder for results that no longer count, since their patient was corrected or is in question."""

_STAGING, _LOCK = "staging", ".lock"
_MOST = 3
"""Number of runs that may be cut off during one case; after that many, the case is taken as the cause and fails."""


def prepare(out: Path) -> None:
    """Make the output folder, or check that a batch has written it.

    Raises:
        OutputError: the folder holds other files, or cannot be made.
    """
    if out.exists() and not out.is_dir():
        raise OutputError(f"a file at {out}, where the output folder should be", remedy="Choose another with -o.")
    if (
        out.is_dir()
        and not (out / JOURNAL).is_file()
        and any(p.name not in (_LOCK, RECEIVED, _STAGING, CASES) for p in out.iterdir())
    ):
        raise OutputError(
            f"files in {out} that no batch has written",
            "a new folder is needed, or one to go on with",
            "Choose another with -o.",
        )
    with os_errors_as_output_errors(out):
        (out / _STAGING).mkdir(parents=True, exist_ok=True)
        (out / CASES).mkdir(exist_ok=True)


@contextmanager
def exclusive_folder(out: Path) -> Iterator[None]:
    """Lock a batch's folder against other writers; the system releases the lock with the process, even when that is
    killed.

    Raises:
        BatchError: another process holds the lock. OutputError: the system refuses to lock a file there.
    """
    # filelock's substitute on file systems without flock, a file whose existence is the lock, would outlive a killed run
    lock = FileLock(out / _LOCK, timeout=0, fallback_to_soft=False)
    with os_errors_as_output_errors(out):
        try:
            held = lock.acquire()
        except Timeout:
            raise BatchError(
                f"another run that writes to {out}",
                "only one may run at a time",
                f"Wait for it: medvit batch status {out}",
            ) from None
    with held:
        yield


def staging_path(out: Path, case: int) -> Path:
    """Return the folder to which a worker writes a case."""
    return out / _STAGING / str(case)


def remove_leftovers(out: Path, case: int | None = None) -> None:
    """Remove the staging folder of one case, or of all cases."""
    for path in (out / _STAGING).iterdir() if case is None else [staging_path(out, case)]:
        shutil.rmtree(path, ignore_errors=True)


def publish_case(out: Path, case: int, folder: str) -> None:
    """Rename the folder of a checked case to its final name, in place of an earlier result.

    Raises:
        OutputError: the operating system refuses.
    """
    source, final, old = staging_path(out, case), out / folder, out / _STAGING / f"old-{case}"
    with os_errors_as_output_errors(final):
        final.parent.mkdir(parents=True, exist_ok=True)
        if final.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.replace(final, old)
        os.replace(source, final)
        for place in (final.parent, final.parent.parent, source.parent):
            _sync(place)
        shutil.rmtree(old, ignore_errors=True)


def withdraw(out: Path, folder: str) -> str:
    """Move a withdrawn result away; return its new folder relative to the batch, or "" if there is no result.

    Raises:
        OutputError: the operating system refuses.
    """
    source = out / folder
    if not source.is_dir():
        return ""
    home = out / WITHDRAWN / case_name(folder)
    place = next(p for n in itertools.count(1) if not (p := home.with_name(f"{home.name}-{n}")).exists())
    with os_errors_as_output_errors(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(source, place)
        for changed in (source.parent, place.parent):
            _sync(changed)
    return place.relative_to(out).as_posix()


def _sync(folder: Path) -> None:
    """Flush the names in a folder to disk."""
    if sys.platform == "win32":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def recover(journal: Journal, out: Path) -> int:
    """Repair the state that a killed run left; return the number of cases that were running.

    Checked cases are published, unless they already were and only the journal lacks it; running cases wait again; all
    other files in the staging folder are removed.
    """
    for row in journal.cases(State.CHECKED):
        if _intact(staging_path(out, row["id"]), row["run_sha256"]):
            publish_case(out, row["id"], row["folder"])
            journal.move(row["id"], State.PUBLISHED)
        elif _has_sha256(out / row["folder"], row["run_sha256"]):
            journal.move(row["id"], State.PUBLISHED)
        else:
            journal.move(row["id"], State.PENDING)
    left = list(journal.cases(State.RUNNING))
    for row in left:
        times = row["interrupted"] + 1
        if times < _MOST:
            journal.move(row["id"], State.PENDING, interrupted=times)
            continue
        reason = f"Found that {times} runs ended while this case was at work."
        remedy = "Run medvit segment on the series alone to see why; medvit batch retry tries it again here."
        journal.move(
            row["id"], State.FAILED, interrupted=0, stage="run", code="Interrupted", reason=reason, remedy=remedy
        )
    remove_leftovers(out)
    return len(left)


def _has_sha256(folder: Path, run_sha256: str) -> bool:
    record = folder / "run.json"
    return record.is_file() and hashlib.sha256(record.read_bytes()).hexdigest() == run_sha256


def _intact(folder: Path, run_sha256: str) -> bool:
    """Return True if a folder holds the files that were checked, with the same hashes."""
    if not _has_sha256(folder, run_sha256):
        return False
    stated: dict[str, str] = json.loads((folder / "run.json").read_text())["files"]
    return stated.items() <= hashes_within(folder).items()
