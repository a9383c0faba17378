"""Publishing a result: everything is written aside and checked, then takes its final name at once."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import medvit
from medvit.errors import OutputError
from medvit.io.geometry import flip_lps_ras
from medvit.io.staging import HIDDEN, explained, write_aside
from medvit.reports.record import run_record
from medvit.reports.statistics import write_csv
from medvit.result import Result

if TYPE_CHECKING:
    from medvit.bundles import Label
    from medvit.io.seg import Author

__all__ = ["OUTPUT_TYPES", "OutputSettings", "Saved", "check_folder", "check_types", "save"]

OUTPUT_TYPES = ("nifti", "dicom-seg", "rtstruct", "png")
"""What a segmentation can be written as."""

_NEEDS_DICOM = ("dicom-seg", "rtstruct")

_OURS = (
    "labels.nii.gz", "labels.json", "labels.png", "seg.dcm", "rtstruct.dcm", "statistics.json", "statistics.csv",
    "preview.png", "run.json",
)  # fmt: skip
"""Files of an earlier result, which ``overwrite`` replaces or takes away; others in the folder stay."""


@dataclass(frozen=True)
class OutputSettings:
    """What to write; see ``Result.save``."""

    output_types: tuple[str, ...] = ("nifti",)
    preview: bool = False
    statistics: bool = False
    per_label: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class Saved:
    """What was published.

    Attributes:
        folder: where.
        files: names within it.
        quality: as ``Result.quality()``.
        set_aside: what was asked for and could not be written, with the reason; empty when all was.
    """

    folder: Path
    files: tuple[str, ...]
    quality: dict[str, Any]
    set_aside: tuple[str, ...]

    @property
    def flagged(self) -> bool:
        """Whether a person must look: something set aside, or implausible anatomy (exit code 3)."""
        return bool(self.set_aside) or self.quality["word"] == "poor"


def check_types(types: tuple[str, ...], kind: str) -> None:
    """Refuse output types that do not exist or that this kind of source cannot have.

    Raises:
        OutputError: with what is possible.
    """
    for name in types:
        if name not in OUTPUT_TYPES:
            raise OutputError(f"Found output type {name!r}; it must be one of {', '.join(OUTPUT_TYPES)}. Correct -ot.")
        if name in _NEEDS_DICOM and kind != "dicom":
            raise OutputError(
                f"Found output type {name!r} for a {kind} source; DICOM objects refer to the original DICOM slices. "
                "Give the DICOM series as the source, or use -ot nifti."
            )
        if (name == "png") != (kind == "picture"):
            raise OutputError(
                f"Found output type {name!r} for a {kind} source; pictures give png, volumes give nifti. Correct -ot."
            )


def check_folder(folder: Path, overwrite: bool) -> None:
    """Refuse a folder that holds something or cannot be made, before any work is done.

    Raises:
        OutputError: existing output, a file in the way, or no permission.
    """
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"Found a file at {folder}, where the output folder should be. Choose another with -o.")
    if folder.is_dir() and _holds_something(folder) and not overwrite:
        raise OutputError(
            f"Found files in {folder}; results are never written over silently. Choose another folder or add --overwrite."
        )
    with explained(folder), write_aside(folder):
        pass


def _holds_something(folder: Path) -> bool:
    return any(not path.name.startswith(HIDDEN) for path in folder.iterdir())


def save(result: Result, folder: str | os.PathLike[str], settings: OutputSettings) -> Saved:
    """Write, check and publish a result; see ``Result.save``."""
    final = Path(folder)
    check_types(settings.output_types, result.scan.kind)
    check_folder(final, settings.overwrite)
    with explained(final), write_aside(final) as staging:
        with result.progress.stage("write"):
            set_aside = _write_all(result, staging, settings)
        files = {path.name: _sha256(path) for path in sorted(staging.iterdir())}
        notes = (*result.notes, *set_aside)
        (staging / "run.json").write_text(json.dumps(run_record(result, files, notes), indent=2) + "\n")
        result.progress.check()
        _publish(staging, final, [f"{label.name}.nii.gz" for label in result.bundle.facts.labels])
    return Saved(final, tuple(sorted([*files, "run.json"])), result.quality(), tuple(set_aside))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _write_all(result: Result, staging: Path, settings: OutputSettings) -> list[str]:
    types = list(settings.output_types)
    set_aside = _withheld(result, types)
    if set_aside and "nifti" not in types:
        types.append("nifti")
    writers: dict[str, Callable[[Result, Path], None]] = {
        "nifti": _write_nifti,
        "dicom-seg": _write_seg,
        "rtstruct": _write_rtstruct,
        "png": _write_png,
    }
    for name in dict.fromkeys(types):
        result.progress.check()
        if not (set_aside and name in _NEEDS_DICOM):
            writers[name](result, staging)
    if settings.per_label:
        _write_each(result, staging)
    _write_statistics(result, staging, settings.statistics)
    if settings.preview and not result.scan.is_picture:
        from medvit.reports.preview import draw_preview

        draw_preview(staging / "preview.png", result)
    return set_aside


def _withheld(result: Result, types: list[str]) -> list[str]:
    """Why DICOM objects asked for cannot be written."""
    asked = [name for name in types if name in _NEEDS_DICOM]
    if not asked:
        return []
    reasons = list(result.scan.blockers)
    if not reasons and not result.array.any():
        reasons = ["no label was found"]
    remedy = " To have them, add --repair-tags." if result.scan.blockers else ""
    words = f"{' and '.join(asked)} not written: {'; '.join(reasons)}. NIfTI was written instead.{remedy}"
    return [words] if reasons else []


def _present(result: Result) -> list[Label]:
    return [label for found, label in zip(result.statistics(), result.wanted, strict=True) if found.voxels]


def _author(result: Result) -> Author:
    from medvit.io.seg import Author

    bundle = result.bundle
    return Author(
        f"{bundle.name} {bundle.version}", bundle.facts.weights.sha256, medvit.__version__, bundle.intended_use
    )


def _write_nifti(result: Result, staging: Path) -> None:
    from medvit.io.nifti import write_label_names, write_labels

    write_labels(staging / "labels.nii.gz", result.array, result.scan, result.wanted)
    write_label_names(staging / "labels.json", result.wanted)


def _write_each(result: Result, staging: Path) -> None:
    from medvit.io.nifti import write_labels

    for label in result.wanted:
        write_labels(staging / f"{label.name}.nii.gz", (result.array == label.id).astype("uint8"), result.scan, [label])


def _write_seg(result: Result, staging: Path) -> None:
    from medvit.io.roundtrip import check_seg
    from medvit.io.seg import write_seg

    path, labels = staging / "seg.dcm", _present(result)
    write_seg(path, result.array, result.scan.slices, labels, _author(result))
    check_seg(path, result.array, flip_lps_ras(result.scan.affine), labels)


def _write_rtstruct(result: Result, staging: Path) -> None:
    from medvit.io.roundtrip import check_rtstruct
    from medvit.io.rtstruct import write_rtstruct

    path, labels, lps = staging / "rtstruct.dcm", _present(result), flip_lps_ras(result.scan.affine)
    write_rtstruct(path, result.array, lps, result.scan.slices, labels, _author(result))
    check_rtstruct(path, result.array, lps, labels)


def _write_png(result: Result, staging: Path) -> None:
    from PIL import Image

    picture = Image.fromarray(result.array.astype("uint8"), mode="P")
    palette = [0] * 768
    for label in result.wanted:
        palette[3 * label.id : 3 * label.id + 3] = label.color
    picture.putpalette(palette)
    picture.save(staging / "labels.png")


def _write_statistics(result: Result, staging: Path, as_csv: bool) -> None:
    rows = result.statistics()
    values = result.bundle.facts.values
    content = {
        "intended_use": result.bundle.intended_use,
        "bundle": f"{result.bundle.name} {result.bundle.version}",
        "intensity_unit": values.unit if values else "as stored",
        "quality": result.quality(),
        "labels": [asdict(row) for row in rows],
    }
    (staging / "statistics.json").write_text(json.dumps(content, indent=2) + "\n")
    if as_csv:
        write_csv(staging / "statistics.csv", rows)


def _publish(staging: Path, final: Path, per_label: list[str]) -> None:
    """Give everything its final name: the whole folder in one rename, or file by file into an existing one."""
    for path in staging.iterdir():
        with path.open("r+b") as file:
            os.fsync(file.fileno())
    if not final.exists():
        os.replace(staging, final)
        return
    # run.json is the seal: gone while files change, back as the last with the hash of each
    written = {path.name for path in staging.iterdir()}
    for stale in {"run.json", *_OURS, *per_label} - (written - {"run.json"}):
        (final / stale).unlink(missing_ok=True)
    for path in sorted(staging.iterdir(), key=lambda p: (p.name == "run.json", p.name)):
        os.replace(path, final / path.name)
