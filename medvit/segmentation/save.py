"""Output of a segmentation as NIfTI, DICOM objects or PNG, with its statistics and preview."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from medvit.errors import OutputError
from medvit.io.dicom import repairable
from medvit.reports import run_record, source_facts, write_csv
from medvit.segmentation.dicom_export import DICOM_WRITERS, DicomExport, study_blockers
from medvit.segmentation.result_protocol import SegmentationResult
from medvit.tasks import SavedResult, SavePlan, Writer, publish_result, write_statistics

__all__ = ["OUTPUT_FILES", "OUTPUT_TYPES", "OutputSettings", "check_types", "save_result"]

OUTPUT_TYPES = ("nifti", "dicom-seg", "rtstruct", "sr", "sc", "png")
"""Output types of a segmentation."""

_NEEDS_DICOM = ("dicom-seg", "rtstruct", "sr", "sc")

OUTPUT_FILES = (
    "labels.nii.gz", "labels.json", "labels.png", "seg.dcm", "rtstruct.dcm", "sr.dcm", "statistics.json", "statistics.csv",
    "preview.png", "run.json", "sc/[0-9]*.dcm", "maps/disagreement.nii.gz", "maps/disagreement.png",
)  # fmt: skip
"""Files of an earlier result, which ``overwrite`` replaces or removes; other files in the folder stay."""


@dataclass(frozen=True, kw_only=True)
class OutputSettings:
    """Settings for the outputs of a segmentation.

    Attributes:
        output_types, preview, statistics, per_label, overwrite: as for ``Result.save``.

    Examples:
        >>> from medvit.segmentation import OutputSettings
        >>> OutputSettings(preview=True).output_types
        ('nifti',)
    """

    output_types: tuple[str, ...] = ("nifti",)
    preview: bool = False
    statistics: bool = False
    per_label: bool = False
    overwrite: bool = False


def check_types(types: tuple[str, ...], kind: str) -> None:
    """Refuse output types that do not exist or do not suit the kind of source.

    Args:
        types: names of output types.
        kind: kind of the source, see ``Scan.kind``.

    Raises:
        OutputError: a type is unknown or needs another kind of source; the message names what is possible.

    Examples:
        >>> from medvit.segmentation import check_types
        >>> check_types(("nifti", "dicom-seg"), "dicom")
    """
    for name in types:
        if name not in OUTPUT_TYPES:
            raise OutputError(
                f"output type {name!r}",
                f"it must be one of {', '.join(OUTPUT_TYPES)}",
                "Correct {output_types}.",
                option="output_types",
            )
        if name in _NEEDS_DICOM and kind != "dicom":
            raise OutputError(
                f"output type {name!r} for a {kind} source",
                "DICOM objects refer to the original DICOM slices",
                "Give the DICOM series as the source, or use {output_types=('nifti',)}.",
                option="output_types",
            )
        if (name == "png") != (kind == "picture"):
            raise OutputError(
                f"output type {name!r} for a {kind} source",
                "pictures give png, volumes give nifti",
                "Correct {output_types}.",
                option="output_types",
            )


def save_result(result: SegmentationResult, folder: str | os.PathLike[str], settings: OutputSettings) -> SavedResult:
    """Write, check and publish a result; see ``Result.save``."""
    check_types(settings.output_types, result.scan.kind)

    def record(files: dict[str, str], notes: tuple[str, ...]) -> dict[str, Any]:
        return run_record(result, files, notes, {"source": source_facts(result.scan)}, result.scan.creation)

    return publish_result(result, folder, _plan(result, settings), record)


def _plan(result: SegmentationResult, settings: OutputSettings) -> SavePlan:
    asked, notes = settings.output_types, []
    types = list(asked)
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
        remedy = " To have them, let medvit repair the tags." if repairable(result.scan.blockers) else ""
        words = f"{_listed(withheld)} not written: {'; '.join(reasons)}. NIfTI was written instead.{remedy}"
        not_written, types = (words,), [*(name for name in types if name not in withheld), "nifti"]
    if "sr" in types and "dicom-seg" not in types:
        types.append("dicom-seg")
        notes.append("The segmentation was written as well: the measurement report refers to its segments.")
    return SavePlan(
        writers=_writers(result, [name for name in OUTPUT_TYPES if name in types], settings),
        output_files=[*OUTPUT_FILES, *(f"{label.name}.nii.gz" for label in result.bundle.facts.labels)],
        overwrite=settings.overwrite,
        not_written=(*result.scan.excluded, *not_written),
        notes=tuple(notes),
    )


def _reasons(result: SegmentationResult) -> list[str]:
    """List the reasons against writing DICOM objects that refer to the source's slices and to labels."""
    return list(result.scan.blockers) or ([] if result.on_source_slices().any() else ["no label was found"])


def _listed(names: Sequence[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def _writers(result: SegmentationResult, types: Sequence[str], settings: OutputSettings) -> list[Writer]:
    """Return the writers of all files, ordered so that a file comes after those it refers to."""
    export = DicomExport(result)
    by_type: dict[str, Writer] = {
        "nifti": partial(_write_nifti, result),
        "png": partial(_write_png, result),
        **{name: partial(write, export) for name, write in DICOM_WRITERS.items()},
    }
    writers = [by_type[name] for name in types]
    if settings.per_label:
        writers.append(partial(_write_each, result))
    writers += [partial(_write_map, result), partial(_write_statistics, result, settings.statistics)]
    if settings.preview:
        writers.append(partial(_write_preview, result))
    return writers


def _write_preview(result: SegmentationResult, staging: Path) -> None:
    from medvit.segmentation.preview import draw_preview

    draw_preview(staging / "preview.png", result)


def _write_nifti(result: SegmentationResult, staging: Path) -> None:
    from medvit.io import write_label_names, write_labels

    write_labels(staging / "labels.nii.gz", result.array, result.scan, result.requested_labels)
    write_label_names(staging / "labels.json", result.requested_labels)


def _write_each(result: SegmentationResult, staging: Path) -> None:
    from medvit.io import write_labels

    for label in result.requested_labels:
        write_labels(staging / f"{label.name}.nii.gz", (result.array == label.id).astype("uint8"), result.scan, [label])


def _write_map(result: SegmentationResult, staging: Path) -> None:
    """Write the map of differences between image and mirror image, if there is one."""
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


def _write_png(result: SegmentationResult, staging: Path) -> None:
    from PIL import Image

    picture = Image.fromarray(result.array.astype("uint8"), mode="P")
    palette = [0] * 768
    for label in result.requested_labels:
        palette[3 * label.id : 3 * label.id + 3] = label.color
    picture.putpalette(palette)
    picture.save(staging / "labels.png")


def _write_statistics(result: SegmentationResult, as_csv: bool, staging: Path) -> None:
    rows, agreement = result.statistics(), result.agreement()
    content = {
        "intensity_unit": result.intensity_unit,
        "quality": result.quality(),
        "entropy_bits": result.entropy(),
        **({"agreement_with_mirror_image": agreement} if agreement is not None else {}),
        "labels": [asdict(row) for row in rows],
    }
    write_statistics(staging, result.bundle, content)
    if as_csv:
        write_csv(staging / "statistics.csv", rows)
