"""Publishing a result: everything is written aside and checked, then takes its final name at once."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medvit.atomic_write import hashes_within, os_errors_as_output_errors, publish, staging_folder
from medvit.errors import OutputError
from medvit.io.dicom import repairable
from medvit.reports import run_record, write_csv
from medvit.segmentation.dicom_export import DICOM_WRITERS, DicomExport, study_blockers
from medvit.segmentation.result import Result
from medvit.tasks import check_folder

__all__ = ["OUTPUT_FILES", "OUTPUT_TYPES", "OutputSettings", "SavedResult", "check_types", "save_result"]

OUTPUT_TYPES = ("nifti", "dicom-seg", "rtstruct", "sr", "sc", "png")
"""What a segmentation can be written as."""

_NEEDS_DICOM = ("dicom-seg", "rtstruct", "sr", "sc")

OUTPUT_FILES = (
    "labels.nii.gz", "labels.json", "labels.png", "seg.dcm", "rtstruct.dcm", "sr.dcm", "statistics.json", "statistics.csv",
    "preview.png", "run.json", "sc/[0-9]*.dcm", "maps/disagreement.nii.gz", "maps/disagreement.png",
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
class SavedResult:
    """What was published.

    Attributes:
        folder: where.
        files: paths within it.
        quality: as ``Result.quality()``.
        not_written: what was asked for and could not be written, with the reason; empty when all was.
        notes: what was done beyond what was asked, in plain words.
    """

    folder: Path
    files: tuple[str, ...]
    quality: dict[str, Any]
    not_written: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def flagged(self) -> bool:
        """Whether a person must look: something set aside, or implausible anatomy (exit code 3)."""
        return bool(self.not_written) or self.quality["rating"] == "poor"


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


def save_result(result: Result, folder: str | os.PathLike[str], settings: OutputSettings) -> SavedResult:
    """Write, check and publish a result; see ``Result.save``."""
    final = Path(folder)
    check_types(settings.output_types, result.scan.kind)
    check_folder(final, settings.overwrite)
    with os_errors_as_output_errors(final), staging_folder(final) as staging:
        plan = _plan(result, settings.output_types)
        with result.progress.stage("write"):
            _write_all(result, staging, plan, settings)
        files = hashes_within(staging)
        notes = tuple(dict.fromkeys((*result.notes, *plan.notes, *plan.not_written)))
        (staging / "run.json").write_text(json.dumps(run_record(result, files, notes), indent=2) + "\n")
        result.progress.check()
        publish(staging, final, [*OUTPUT_FILES, *(f"{label.name}.nii.gz" for label in result.bundle.facts.labels)])
    return SavedResult(final, tuple(sorted([*files, "run.json"])), result.quality(), plan.not_written, plan.notes)


@dataclass(frozen=True)
class _Plan:
    """What will be written, in the order of writing, and what a reader must know about the choice."""

    types: tuple[str, ...]
    not_written: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def _plan(result: Result, asked: Sequence[str]) -> _Plan:
    types, notes = list(asked), []
    reasons = _reasons(result) if result.scan.kind == "dicom" else []
    withheld = [name for name in dict.fromkeys(asked) if name in _NEEDS_DICOM] if reasons else []
    if "sc" in withheld and not study_blockers(result.scan.slices):
        withheld.remove("sc")
        if result.scan.blockers:
            notes.append(
                "The secondary capture was written: it needs only the study's UID. Where the source states no "
                "consistent UIDs, it names no place in the patient and no source image."
            )
    not_written: tuple[str, ...] = ()
    if withheld:
        remedy = " To have them, add --repair-tags." if repairable(result.scan.blockers) else ""
        words = f"{_listed(withheld)} not written: {'; '.join(reasons)}. NIfTI was written instead.{remedy}"
        not_written, types = (words,), [*(name for name in types if name not in withheld), "nifti"]
    if "sr" in types and "dicom-seg" not in types:
        types.append("dicom-seg")
        notes.append("The segmentation was written as well: the measurement report refers to its segments.")
    aside = (*result.scan.excluded, *not_written)
    return _Plan(tuple(name for name in OUTPUT_TYPES if name in types), aside, tuple(notes))


def _reasons(result: Result) -> list[str]:
    """Why objects that refer to the source and to what was found cannot be written."""
    return list(result.scan.blockers) or ([] if result.on_source_slices().any() else ["no label was found"])


def _listed(names: Sequence[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def _write_all(result: Result, staging: Path, plan: _Plan, settings: OutputSettings) -> None:
    draft = DicomExport(result, staging)
    plain = {"nifti": _write_nifti, "png": _write_png}
    for name in plan.types:
        result.progress.check()
        if name in DICOM_WRITERS:
            DICOM_WRITERS[name](draft)
        else:
            plain[name](result, staging)
    if settings.per_label:
        _write_each(result, staging)
    _write_map(result, staging)
    _write_statistics(result, staging, settings.statistics)
    if settings.preview:
        from medvit.segmentation.preview import draw_preview

        draw_preview(staging / "preview.png", result)


def _write_nifti(result: Result, staging: Path) -> None:
    from medvit.io import write_label_names, write_labels

    write_labels(staging / "labels.nii.gz", result.array, result.scan, result.requested_labels)
    write_label_names(staging / "labels.json", result.requested_labels)


def _write_each(result: Result, staging: Path) -> None:
    from medvit.io import write_labels

    for label in result.requested_labels:
        write_labels(staging / f"{label.name}.nii.gz", (result.array == label.id).astype("uint8"), result.scan, [label])


def _write_map(result: Result, staging: Path) -> None:
    """Where the image's and its mirror image's answers differ, if both were asked for."""
    from medvit.io import write_labels

    differ = result.disagreement()
    if differ is None:
        return
    (staging / "maps").mkdir()
    if result.scan.is_picture:
        from PIL import Image

        Image.fromarray(differ * 255).save(staging / "maps" / "disagreement.png")
    else:
        write_labels(staging / "maps" / "disagreement.nii.gz", differ, result.scan, ())


def _write_png(result: Result, staging: Path) -> None:
    from PIL import Image

    picture = Image.fromarray(result.array.astype("uint8"), mode="P")
    palette = [0] * 768
    for label in result.requested_labels:
        palette[3 * label.id : 3 * label.id + 3] = label.color
    picture.putpalette(palette)
    picture.save(staging / "labels.png")


def _write_statistics(result: Result, staging: Path, as_csv: bool) -> None:
    rows = result.statistics()
    content = {
        "intended_use": result.bundle.intended_use,
        "bundle": f"{result.bundle.name} {result.bundle.version}",
        "intensity_unit": result.intensity_unit,
        "quality": result.quality(),
        "entropy_bits": result.entropy(),
        **({"agreement_with_mirror_image": agreement} if (agreement := result.agreement()) is not None else {}),
        "labels": [asdict(row) for row in rows],
    }
    (staging / "statistics.json").write_text(json.dumps(content, indent=2) + "\n")
    if as_csv:
        write_csv(staging / "statistics.csv", rows)
