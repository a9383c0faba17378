"""The record of a run: what ran on what, with which settings and how long. No patient data."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Protocol

from medvit._version import __version__
from medvit.io import TODAY, Creation

if TYPE_CHECKING:
    from medvit.bundles import Bundle
    from medvit.io import Scan
    from medvit.progress import Progress

__all__ = ["RecordedResult", "record_header", "run_record", "source_facts", "stage_seconds", "versions"]

_PACKAGES = (
    "torch",
    "monai",
    "numpy",
    "nibabel",
    "SimpleITK",
    "pydicom",
    "highdicom",
    "numba",
    "scipy",
    "scikit-image",
    "openvino",
)


class RecordedResult(Protocol):
    """What every result has: see ``medvit.tasks.TaskResult``."""

    @property
    def bundle(self) -> Bundle:
        """What made it."""

    @property
    def settings(self) -> dict[str, Any]:
        """Of the run."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of it must know."""

    @property
    def progress(self) -> Progress:
        """With the seconds of each stage."""

    def quality(self) -> dict[str, Any]:
        """Return the rating and its reasons."""


def versions() -> dict[str, str]:
    """Versions of Python, medvit and what it stands on."""
    found = {"python": platform.python_version(), "medvit": __version__}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def record_header(intended_use: str, creation: Creation = TODAY) -> dict[str, Any]:
    """Return the entries that every ``run.json`` begins with.

    Args:
        intended_use: the sentence of the bundle.
        creation: the rule for dates; a de-identified run states none, or one moved into the past.
    """
    return {
        "intended_use": intended_use,
        # when it ran, not when the patient was scanned
        "finished": creation.finished(),
        "versions": versions(),
        "machine": {"system": platform.system(), "processor": platform.machine()},
    }


def source_facts(scan: Scan) -> dict[str, Any]:
    """A source without a name: what it is, and a fingerprint of its voxels."""
    return {
        "kind": scan.kind,
        "modality": scan.modality,
        "shape": list(scan.array.shape),
        "spacing_mm": [round(s, 4) for s in scan.spacing_mm],
        **({"geometry": scan.geometry} if scan.geometry is not None else {}),
        "sha256": scan.fingerprint(),
    }


def stage_seconds(progress: Progress) -> dict[str, float]:
    """How long each stage took."""
    return {k: round(v, 3) for k, v in progress.seconds.items()}


def run_record(
    result: RecordedResult,
    files: dict[str, str],
    notes: Sequence[str],
    sources: Mapping[str, Any],
    creation: Creation = TODAY,
) -> dict[str, Any]:
    """Return the content of ``run.json``.

    A source is named by a fingerprint of its voxels alone: file names and tags can hold a patient's name.

    Args:
        result: the run.
        files: sha256 of each file written.
        notes: everything a reader must know.
        sources: what was given, as ``source_facts`` of a scan, under "source".
        creation: the rule for dates, that of the scan.
    """
    bundle = result.bundle
    return {
        **record_header(bundle.intended_use, creation),
        "bundle": {"name": bundle.name, "version": bundle.version, "weights_sha256": bundle.weights_sha256},
        "settings": result.settings,
        **sources,
        "quality": result.quality(),
        "notes": list(notes),
        "seconds": stage_seconds(result.progress),
        "files": files,
    }
