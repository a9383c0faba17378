"""The record of a run: bundle, source, settings and durations, without patient data."""

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
    """The part of a result that its record needs; see ``medvit.tasks.TaskResult``.

    Examples:
        >>> from medvit.reports import RecordedResult
        >>> def rating(result: RecordedResult) -> str:
        ...     return result.quality()["rating"]
    """

    @property
    def bundle(self) -> Bundle:
        """Bundle that made the result."""

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of the run."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for readers of the result."""

    @property
    def progress(self) -> Progress:
        """Progress of the run, with the seconds of each stage."""

    def quality(self) -> dict[str, Any]:
        """Return the rating and its reasons."""


def versions() -> dict[str, str]:
    """Return the versions of Python, medvit and the packages it uses.

    Returns:
        Version by package name; "not installed" for a missing package.

    Examples:
        >>> import medvit
        >>> from medvit.reports import versions
        >>> versions()["medvit"] == medvit.__version__
        True
    """
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
        intended_use: the bundle's sentence.
        creation: the rule for dates; for de-identified sources it shifts or omits them.

    Returns:
        Entries that JSON can hold.

    Examples:
        >>> from medvit.reports import record_header
        >>> list(record_header("For research use, not for diagnosis"))
        ['intended_use', 'finished', 'versions', 'machine']
    """
    return {
        "intended_use": intended_use,
        # the time of the run, not of the scan
        "finished": creation.finished(),
        "versions": versions(),
        "machine": {"system": platform.system(), "processor": platform.machine()},
    }


def source_facts(scan: Scan) -> dict[str, Any]:
    """Describe a source without its name: kind, shape, spacing, and a fingerprint of its voxels.

    Args:
        scan: the source.

    Returns:
        Entries that JSON can hold.

    Examples:
        >>> import numpy as np
        >>> from medvit.io import Scan
        >>> from medvit.reports import source_facts
        >>> scan = Scan(array=np.zeros((1, 4, 4, 2), np.float32), affine=np.eye(4), kind="array")
        >>> source_facts(scan)["shape"]
        [1, 4, 4, 2]
    """
    return {
        "kind": scan.kind,
        "modality": scan.modality,
        "shape": list(scan.array.shape),
        "spacing_mm": [round(s, 4) for s in scan.spacing_mm],
        **({"geometry": scan.geometry} if scan.geometry is not None else {}),
        "sha256": scan.fingerprint(),
    }


def stage_seconds(progress: Progress) -> dict[str, float]:
    """Return the seconds that each stage took, rounded to milliseconds.

    Args:
        progress: the progress of a run.

    Returns:
        Seconds by name of the stage.

    Examples:
        >>> from medvit.progress import Progress
        >>> from medvit.reports import stage_seconds
        >>> progress = Progress()
        >>> with progress.stage("read"):
        ...     pass
        >>> list(stage_seconds(progress))
        ['read']
    """
    return {k: round(v, 3) for k, v in progress.seconds.items()}


def run_record(
    result: RecordedResult,
    files: dict[str, str],
    notes: Sequence[str],
    sources: Mapping[str, Any],
    creation: Creation = TODAY,
) -> dict[str, Any]:
    """Return the content of ``run.json``.

    A source is identified only by a fingerprint of its voxels, since file names and tags can hold a patient's name.

    Args:
        result: the result of the run.
        files: sha256 of each file written.
        notes: notes for readers of the result.
        sources: description of the sources, e.g. ``{"source": source_facts(scan)}``.
        creation: the rule for dates, from the scan.

    Returns:
        The record, with entries that JSON can hold.

    Examples:
        >>> from types import SimpleNamespace
        >>> from medvit.bundles import open_bundle
        >>> from medvit.progress import Progress
        >>> from medvit.reports import run_record
        >>> result = SimpleNamespace(
        ...     bundle=open_bundle("headneck_ct_swin_unetr"),
        ...     settings={"device": "cpu"},
        ...     notes=(),
        ...     progress=Progress(),
        ...     quality=lambda: {"rating": "good", "reasons": []},
        ... )
        >>> run_record(result, files={}, notes=(), sources={})["quality"]["rating"]
        'good'
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
