"""What travels: a case, what was decided about it, the job that a worker gets and the outcome it gives back."""

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


CASES = "cases"
"""Name of the folder of all results, within the batch."""


class State(StrEnum):
    """Where a case stands."""

    PENDING = "pending"
    RUNNING = "running"
    CHECKED = "checked"
    PUBLISHED = "published"
    FAILED = "failed"
    SET_ASIDE = "set aside"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class RunOptions:
    """How cases are run and what is written: what decides a result, beside its images and bundle.

    Attributes:
        run: as the pipeline takes it.
        types: output types; empty for the usual ones of the source's kind.
        preview, statistics, per_label: as ``OutputSettings``.
        privacy: how results are de-identified; None where they carry the patient's attributes on.
    """

    run: RunSettings = field(default_factory=RunSettings)
    types: tuple[str, ...] = ()
    preview: bool = True
    statistics: bool = False
    per_label: bool = False
    privacy: Privacy | None = None

    def deciding(self) -> dict[str, Any]:
        """All that changes a result; the device does not."""
        content = asdict(self)
        del content["run"]["device"], content["run"]["series"]
        if self.privacy is None:
            del content["privacy"]  # what was asked before there was such an option is still the same
        else:
            del content["privacy"]["issuer"]  # of one case
        if self.run.geometry is None:
            del content["run"]["geometry"]
        return content


@dataclass(frozen=True)
class CaseDescription:
    """What is said of a case's images to others: no name, no date, no path."""

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
    """Where the images of a case are found in the catalogue: a series in a place and a volume's number, or an image file."""

    inside: int = 0
    series: str = ""
    number: int = 0
    image: Path | None = None


@dataclass(frozen=True)
class Decision:
    """What is to be done with a volume.

    Attributes:
        volume: its lasting name within this batch.
        bundle: what it is run through; empty where there is none.
        state: pending, set aside or skipped.
        reason: in words.
        code: of the reason, for programs.
        facts: about the images.
        key: where they are.
        file_signature: of their files.
        changed: when the newest of them came, nanoseconds.
        folder: a name for its results that holds nobody's name.
        patient: keyed fingerprint of who the headers say the patient is; empty for image files.
        issuer: of the PatientID, where it is not the headers that say so.
        disputed: whether a person has to decide which patient it is of.
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


@dataclass(frozen=True, eq=False)
class CaseJob:
    """A case as a worker gets it.

    Attributes:
        case: its number in the journal.
        name: what logs call it.
        bundle: name or folder.
        work: how to run it.
        staging: folder to write to; it is not there yet.
        group: the images of the series, for DICOM.
        key: which of them.
        note: what a reader must know of earlier results.
    """

    case: int
    name: str
    bundle: str
    work: RunOptions
    staging: Path
    group: Group | None
    key: CaseLocation
    note: str = ""


@dataclass(frozen=True)
class Outcome:
    """What came of a case.

    Attributes:
        state: checked, failed, set aside or, where the disk was full or the worker stopped, pending.
        stage: where it ended.
        code: kind of error.
        reason, remedy: what to tell a person.
        fatal: whether the worker should be replaced.
        full: whether there was no space left.
        flags: what a person must look at in a result.
        rating: one of ``medvit.reports.rating.RATINGS``.
        rating_reasons: why.
        notes: what a reader must know.
        version, weights: of the bundle that ran.
        run_sha256: sha256 of run.json.
        seconds: by stage; see ``sequential_seconds``.
        peak_mb: the most memory the worker ever took.
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
        """With every sentence changed."""
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
        folder: of its results, within the batch.
    """
    return folder.removeprefix(f"{CASES}/")


def sequential_seconds(seconds: Mapping[str, float]) -> dict[str, float]:
    """Seconds by stage for which a case kept its worker busy, one stage after the other.

    Not among them: "preflight", which lies within another stage; "ahead", reading beside the case before, of which "open" and "read"
    hold what was waited for; "behind", writing beside the case after, for which "wait" of that case says what it waited.
    """
    return {name: value for name, value in seconds.items() if name not in ("preflight", "ahead", "behind")}


def json_sha256(content: Any) -> str:
    """sha256 of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
