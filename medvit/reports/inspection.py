"""Content of a source and the outcome that a run would have: as data, and for a diagram. No patient data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medvit.errors import MedvitError, Words, python_words
from medvit.io import Scan, axis_codes, is_image_name, is_packed_image, open_source, require_there
from medvit.io.dicom import repairable, run_preflight
from medvit.io.dicom.preflight import Finding, Preflight, SeriesVolume, choose_volume
from medvit.progress import Progress

__all__ = ["Inspection", "inspect_source"]

_OUTCOMES = {
    "note": "ready",
    "flag": "ready, flagged",
    "tags": "ready for NIfTI; DICOM objects need {repair_tags=True}",
    "irregular": "irregular: choose {on_irregular=resample} or split",
    "refused": "refused",
}


@dataclass(frozen=True, eq=False)
class Inspection:
    """Result of an inspection.

    Attributes:
        content: the content that ``medvit inspect --json`` prints.
        flagged: True where something needs a person's decision (exit code 3).
        found: the preflight, for a diagram of slice positions; None for an image file.

    Examples:
        >>> from medvit.reports import Inspection
        >>> Inspection({"kind": "nifti", "outcome": "ready"}, flagged=False).content["outcome"]
        'ready'
    """

    content: dict[str, Any]
    flagged: bool
    found: Preflight | None = None


def inspect_source(
    source: Path, progress: Progress | None = None, geometry: str | None = None, words: Words = python_words
) -> Inspection:
    """Inspect a source without decoding more than necessary.

    Args:
        source: a path that ``open_source`` accepts.
        progress: shows progress; can cancel.
        geometry: the form of a NIfTI to use, "sform" or "qform"; None uses the sform where it is stated.
        words: gives a door's words for options; see ``MedvitError.sentence``.

    Returns:
        The content of the source, and the outcome that a run would have.

    Raises:
        SourceError: the source does not exist, or contains no image.
        GeometryError, ImageError: an image file is not usable.

    Examples:
        >>> import numpy as np
        >>> from pathlib import Path
        >>> from medvit.io import write_volume
        >>> from medvit.reports import inspect_source
        >>> voxels = np.arange(8 * 8 * 4, dtype=np.int16).reshape(8, 8, 4)
        >>> write_volume(Path("head.nii"), voxels, np.diag([1.0, 1.0, 2.0, 1.0]))
        >>> found = inspect_source(Path("head.nii"))
        >>> found.content["spacing_mm"], found.content["outcome"]
        ([1.0, 1.0, 2.0], 'ready')
    """
    progress = progress or Progress()
    require_there(source)
    if source.is_file() and (is_packed_image(source) or is_image_name(source)):
        return _image(open_source(source, progress=progress, geometry=geometry))
    found = run_preflight(source, progress)
    try:
        chosen = choose_volume(found, None, source.name)
        run = {"volume": chosen.volume.number, "set_aside": list(chosen.excluded), "reason": None}
    except MedvitError as error:
        if not found.volumes and not found.damaged:
            open_source(source, progress=progress)  # raises a more precise error
        # without the list of volumes, which is output anyway
        run = {"volume": None, "set_aside": [], "reason": error.headline(words)}
    content = {
        "kind": "dicom",
        "files": found.files,
        "seconds": round(progress.seconds.get("preflight", 0.0), 3),
        "volumes": [_volume(v, v.number == run["volume"], bool(run["set_aside"]), words) for v in found.volumes],
        "set_aside": {
            "objects": found.objects,
            "not_dicom": found.other,
            "archives": len(found.packed),
            "damaged": len(found.damaged),
        },
        "damaged": [{"file": name, "reason": why} for name, why in found.damaged],
        "absent": list(found.absent),
        "not_read": [{"file": name, "reason": why} for name, why in found.lost],
        "passed_over": dict(found.passed),
        "run": run,
    }
    worst = {v.worst() for v in found.volumes}
    undecided = run["volume"] is None or run["set_aside"]
    flagged = bool(worst - {"note"} or found.damaged or found.lost or undecided)
    return Inspection(content, flagged, found)


def _rounded(values: Any) -> list[float] | None:
    return None if values is None else [round(float(v), 4) for v in values]


def _volume(volume: SeriesVolume, taken: bool, flagged: bool, words: Words) -> dict[str, Any]:
    first, stack = volume.first, volume.stack
    outcome = _OUTCOMES[volume.worst()]
    outcome = MedvitError(outcome, option=("on_irregular", "repair_tags")).sentence(words)
    if volume.worst() == "tags" and not repairable(tuple(f.found for f in volume.findings if f.severity == "tags")):
        outcome = "ready for NIfTI, not for DICOM objects"
    if taken and flagged and outcome == "ready":
        outcome = _OUTCOMES["flag"]
    if volume.kind in ("localizer", "screen", "clip") and outcome == "ready" and not taken:
        outcome = "set aside beside a volume"
    return {
        "number": volume.number,
        "series_instance_uid": volume.series,
        "kind": volume.kind,
        "part": volume.part,
        "modality": volume.modality,
        "slices": volume.count,
        "rows": first.rows,
        "columns": first.columns,
        "plane": volume.plane_name,
        "spacing_mm": _rounded(volume.spacing_mm),
        "positions_mm": _rounded(stack.distance) if stack is not None else None,
        "transfer_syntaxes": sorted({p.syntax for p in volume.planes}),
        "multi_frame": first.frame is not None or first.frames > 1,
        "outcome": outcome,
        "findings": [_finding(f, words) for f in volume.findings],
    }


def _finding(finding: Finding, words: Words) -> dict[str, Any]:
    content = asdict(finding)
    del content["ways"]
    return content | {"step": finding.worded_step(words), "text": finding.sentence(words)}


def _image(scan: Scan) -> Inspection:
    """Describe an image file, which contains one image that ``open_source`` accepted."""
    low, high = float(scan.array.min()), float(scan.array.max())
    content = {
        "kind": scan.kind,
        "shape": list(scan.array.shape),
        "spacing_mm": None if scan.is_picture else _rounded(scan.spacing_mm),
        "orientation": None if scan.is_picture else axis_codes(scan.affine),
        "values": [round(low, 4), round(high, 4)],
        "background_share": round(float(np.mean(scan.array == low)), 4),
        **({"geometry": scan.geometry} if scan.geometry is not None else {}),
        "notes": list(scan.notes),
        "set_aside": list(scan.excluded),
        "outcome": "flagged: a person must decide" if scan.excluded else "ready",
    }
    return Inspection(content, bool(scan.excluded))
