"""Records that travel between the journal, the dispatcher and the workers: decisions, jobs and outcomes of cases."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from medvit.deidentification import Privacy
from medvit.settings import RunSettings
from medvit_batch.catalogue.series_groups import Group

__all__ = [
    "CASES",
    "NOT_DICOM",
    "CaseDescription",
    "CaseJob",
    "CaseLocation",
    "Decision",
    "Outcome",
    "RunOptions",
    "State",
    "case_name",
    "json_sha256",
    "sequential_seconds",
]

NOT_DICOM = ("nifti", "png")
"""Output types that can be made of an image file; the others refer to DICOM slices."""


CASES = "cases"
"""Name of the folder below the batch's folder that holds the results of all cases."""


class State(StrEnum):
    """State of a case in the journal."""

    PENDING = "pending"
    RUNNING = "running"
    CHECKED = "checked"
    PUBLISHED = "published"
    FAILED = "failed"
    SET_ASIDE = "set aside"
    SKIPPED = "skipped"


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options of a batch that decide its results, together with the images and the bundle.

    Attributes:
        run: settings of the pipeline.
        types: output types; empty for the default types of the source's kind.
        preview, statistics, per_label: see ``OutputSettings``.
        privacy: de-identification settings; None if results keep the patient's attributes.
    """

    run: RunSettings = field(default_factory=RunSettings)
    types: tuple[str, ...] = ()
    preview: bool = True
    statistics: bool = False
    per_label: bool = False
    privacy: Privacy | None = None

    def deciding(self) -> dict[str, Any]:
        """Return the options that change a result; the device and the number of threads are none of them."""
        content = asdict(self)
        del content["run"]["device"], content["run"]["series"], content["run"]["threads"]
        for later in ("no_mirroring", "nnunet_rounding"):  # so that results of versions without them keep their hash
            if not content["run"][later]:
                del content["run"][later]
        if self.privacy is None:
            del content["privacy"]  # so that results of versions without this option keep their hash
        else:
            del content["privacy"]["issuer"]  # the issuer belongs to one case, not to the options
        if self.run.geometry is None:
            del content["run"]["geometry"]
        return content


@dataclass(frozen=True, kw_only=True)
class CaseDescription:
    """Description of a case's images that may be shown to others; it holds no name, date or path."""

    study: str = ""
    series: str = ""
    part: str = ""
    kind: str = ""
    modality: str = ""
    slices: int = 0
    rows: int = 0
    columns: int = 0
    plane: str = ""
    file: str = ""


@dataclass(frozen=True)
class CaseLocation:
    """Key of a case's images in the catalogue: a series with its place and volume number, or an image file."""

    inside: int = 0
    series: str = ""
    number: int = 0
    image: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Decision to run, skip or set aside a volume.

    Attributes:
        volume: lasting name of the volume within this batch.
        bundle: bundle to run it through; empty if there is none.
        state: pending, set aside or skipped.
        reason: reason for the state, in words.
        code: reason for the state, for programs.
        facts: description of the images.
        key: key of the images in the catalogue.
        file_signature: hash of the files' paths, sizes, times and headers.
        changed: time at which the newest file arrived, in nanoseconds.
        folder: folder for the results, whose name identifies nobody.
        patient: keyed fingerprint of the patient's identity in the headers; empty for image files.
        issuer: issuer of the PatientID where the headers state none.
        disputed: True if a person must decide which patient the volume belongs to.
    """

    volume: str
    bundle: str
    state: State
    reason: str
    facts: CaseDescription
    key: CaseLocation
    file_signature: str
    changed: int
    folder: str
    code: str = ""
    patient: str = ""
    issuer: str = ""
    disputed: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class CaseJob:
    """Job that a worker gets: one case, with everything needed to run it.

    Attributes:
        case: number of the case in the journal.
        name: name of the case in logs.
        bundle: name or folder of the bundle.
        work: options of the run.
        staging: folder to write to; it does not exist yet.
        group: images of the series; None for an image file.
        key: key of the volume within the group, or of the image file.
        note: note about earlier results, added to the scan's notes.
    """

    case: int
    name: str
    bundle: str
    work: RunOptions
    staging: Path
    group: Group | None
    key: CaseLocation
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Outcome of running a case.

    Attributes:
        state: checked, failed or set aside; pending if the disk was full or the worker stopped.
        stage: stage in which the case ended.
        code: kind of error.
        reason, remedy: explanation and next step for a person.
        fatal: True if the worker should be replaced.
        full: True if the disk was full.
        flags: points that a person must check in the result.
        rating: one of ``medvit.reports.rating.RATINGS``.
        rating_reasons: reasons for the rating.
        notes: notes for whoever reads the result.
        version, weights: version and weights' sha256 of the bundle that ran.
        run_sha256: sha256 of ``run.json``.
        seconds: seconds by stage; see ``sequential_seconds``.
        peak_mb: peak memory of the worker so far.
    """

    state: State
    stage: str = ""
    code: str = ""
    reason: str = ""
    remedy: str = ""
    fatal: bool = False
    full: bool = False
    flags: tuple[str, ...] = ()
    rating: str = ""
    rating_reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    version: str = ""
    weights: str = ""
    run_sha256: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    peak_mb: float = 0.0

    def in_words(self, change: Callable[[str], str]) -> Outcome:
        """Return a copy with ``change`` applied to each of its sentences."""
        return replace(
            self,
            reason=change(self.reason),
            remedy=change(self.remedy),
            flags=tuple(map(change, self.flags)),
            rating_reasons=tuple(map(change, self.rating_reasons)),
            notes=tuple(map(change, self.notes)),
        )


def case_name(folder: str) -> str:
    """Return the name of a case in messages and tables.

    Args:
        folder: folder of its results, relative to the batch.
    """
    return folder.removeprefix(f"{CASES}/")


def sequential_seconds(seconds: Mapping[str, float]) -> dict[str, float]:
    """Return the seconds of the stages in which a case kept its worker busy.

    Left out are "preflight", which is part of another stage; "ahead", the time for reading this case while the case
    before it ran ("open" and "read" hold the time spent waiting for it); and "behind", the time for writing this case
    while the next one ran ("wait" of that next case holds the time spent waiting for it).
    """
    return {name: value for name, value in seconds.items() if name not in ("preflight", "ahead", "behind")}


def json_sha256(content: Any) -> str:
    """Return the sha256 of any content that JSON can hold."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
