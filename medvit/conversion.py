"""Conversion of labels between file formats: SEG, RTSTRUCT and label maps. ``medvit convert`` uses it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvit.errors import OutputError
from medvit.io import Scan, spacing_mm
from medvit.io.dicom import repair_uids, repairable
from medvit.io.labels import INTENDED_USE, LabelSet, ReadOptions, write_dicom, write_each, write_nifti
from medvit.io.labels.read import read_label_set
from medvit.labels import Label
from medvit.progress import Progress
from medvit.reports import record_header, stage_seconds
from medvit.segmentation import OUTPUT_FILES
from medvit.tasks import SavedFiles, SavePlan, Writer, check_folder, publish_files

if TYPE_CHECKING:
    from monai.data import MetaTensor

__all__ = ["CONVERT_TYPES", "Converted", "Writing", "convert", "convert_labels", "save_labels"]

CONVERT_TYPES = ("nifti", "dicom-seg", "rtstruct")
"""Output formats of a conversion."""


@dataclass(frozen=True)
class Writing:
    """Options for writing labels.

    Attributes:
        output_types: any of ``CONVERT_TYPES``; empty for "nifti" from DICOM objects and "dicom-seg" from label maps.
        per_label: True to write one NIfTI for each label too; where labels overlap, instead of the label map.
        overwrite: True to replace an earlier result.
        repair_tags: True to give the reference's slices consistent UIDs where theirs are missing or contradict each
            other.
    """

    output_types: tuple[str, ...] = ()
    per_label: bool = False
    overwrite: bool = False
    repair_tags: bool = False


@dataclass(frozen=True, kw_only=True)
class Converted(SavedFiles):
    """Published labels; ``notes`` state assumptions and resampling.

    Attributes:
        folder: the folder.
        files: paths within it.
        notes: assumptions and resampling, in plain words.
        labels: the converted labels.
        flags: findings that a person must check (exit code 3); empty without findings.

    Examples:
        >>> import numpy as np
        >>> from pathlib import Path
        >>> import medvit
        >>> from medvit.io import write_volume
        >>> write_volume(Path("masks.nii.gz"), np.ones((8, 8, 4), np.uint8), np.eye(4))
        >>> converted = medvit.convert("masks.nii.gz", "converted", output_types=("nifti",))
        >>> [label.name for label in converted.labels], converted.flags
        (['label_1'], ())
    """

    labels: tuple[Label, ...]
    flags: tuple[str, ...]


def convert(
    source: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    output_types: Sequence[str] = (),
    like: str | os.PathLike[str] | MetaTensor | Scan | None = None,
    series: str | None = None,
    threshold: float = 0.5,
    table: Sequence[Label] = (),
    per_label: bool = False,
    overwrite: bool = False,
    force: bool = False,
    on_irregular: str = "fail",
    geometry: str | None = None,
) -> Converted:
    """Convert labels made by any program to NIfTI, DICOM SEG or RTSTRUCT.

    Examples:
        >>> import numpy as np
        >>> from pathlib import Path
        >>> import medvit
        >>> from medvit.io import write_volume
        >>> write_volume(Path("organs.nii.gz"), np.ones((8, 8, 4), np.uint8), np.eye(4))
        >>> medvit.convert("organs.nii.gz", "out", output_types=("nifti",)).files
        ('labels.json', 'labels.nii.gz', 'run.json')

    Args:
        source, like, series, threshold, table, force, on_irregular, geometry: as in ``medvit.read_labels``. DICOM
            objects refer
            to the slices of ``like``, which must then be a DICOM series; a series in the folder of a DICOM source is
            found by
            itself.
        folder: the folder to write; created.
        output_types: any of "nifti", "dicom-seg", "rtstruct"; by default "nifti" from DICOM objects and "dicom-seg"
            from label
            maps.
        per_label: True to write one NIfTI for each label too.
        overwrite: True to replace an earlier result.

    Returns:
        The published files, the labels, notes, and findings that a person must check.

    Raises:
        SourceError, GeometryError, ImageError, SelectionError: as in ``read_labels``.
        OutputError: an output cannot be written.
        RoundTripError: a written object differs from the labels when read back.
    """
    reading = ReadOptions(
        like=like,
        series=series,
        threshold=threshold,
        table=tuple(table),
        force=force,
        on_irregular=on_irregular,
        geometry=geometry,
    )
    return convert_labels(source, folder, reading, Writing(tuple(output_types), per_label, overwrite))


def convert_labels(
    source: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    reading: ReadOptions,
    writing: Writing,
    progress: Progress | None = None,
) -> Converted:
    """Convert labels as ``convert`` does, with its settings in two objects and with progress."""
    progress = progress or Progress()
    final, path = Path(folder), Path(source)
    _check_names(writing.output_types)
    check_folder(final, writing.overwrite)
    asks_dicom = any(name != "nifti" for name in writing.output_types)
    with progress.stage("read"):
        found = read_label_set(path, replace(reading, search=asks_dicom), progress)
    usual = ("nifti",) if found.kind in ("seg", "rtstruct") else ("dicom-seg",)
    writing = replace(writing, output_types=writing.output_types or usual)
    origin = {"kind": found.kind, "sha256": _sha256(path) if path.is_file() else None}
    reads = {
        "threshold": reading.threshold,
        "forced": reading.force,
        "on_irregular": reading.on_irregular,
        "geometry": reading.geometry,
    }
    return _publish(found, final, writing, _ConversionSource(origin, reads), progress)


def save_labels(
    found: LabelSet,
    folder: str | os.PathLike[str],
    *,
    output_types: Sequence[str] = (),
    per_label: bool = False,
    overwrite: bool = False,
    repair_tags: bool = False,
    progress: Progress | None = None,
) -> Converted:
    """Write labels in memory, for example corrected by hand, as ``convert`` writes those of a file.

    Args:
        found: the labels on one grid; for DICOM objects, with the image they lie on as ``reference``.
        folder, output_types, per_label, overwrite: as in ``convert``; the default output is "dicom-seg" where the image
            is a DICOM series, else "nifti".
        repair_tags: True to give the image's slices consistent UIDs where theirs are missing or contradict each other.
        progress: shows progress; can cancel.

    Returns:
        The published files, the labels, notes, and findings that a person must check.

    Raises:
        OutputError: an output cannot be written.
        RoundTripError: a written object differs from the labels when read back.

    Examples:
        >>> import numpy as np
        >>> import medvit
        >>> from medvit.io.labels import Grid, LabelMask, LabelSet, make_label
        >>> mask = LabelMask(make_label(1, "Liver"), (2, 2, 1), np.ones((3, 3, 2), dtype=bool))
        >>> found = LabelSet(segments=(mask,), grid=Grid((8, 8, 4), np.eye(4)), kind="array")
        >>> medvit.save_labels(found, "corrected").files
        ('labels.json', 'labels.nii.gz', 'run.json')
    """
    final = Path(folder)
    _check_names(output_types)
    check_folder(final, overwrite)
    usual = ("dicom-seg",) if found.reference is not None and found.reference.slices else ("nifti",)
    writing = Writing(tuple(output_types) or usual, per_label, overwrite, repair_tags)
    return _publish(
        found, final, writing, _ConversionSource({"kind": found.kind, "sha256": None}, {}), progress or Progress()
    )


@dataclass(frozen=True)
class _ConversionSource:
    """The source of labels for ``run.json``: its description, and the options it was read with."""

    source: dict[str, Any]
    reading: dict[str, Any]


def _publish(
    found: LabelSet, final: Path, writing: Writing, origin: _ConversionSource, progress: Progress
) -> Converted:
    found, writing = _ready(found, writing)

    def record(files: dict[str, str], notes: tuple[str, ...]) -> dict[str, Any]:
        return _record(found.with_notes(*dict.fromkeys(notes)), origin, writing, files, progress)

    plan = SavePlan(
        writers=_writers(found, writing),
        output_files=[*OUTPUT_FILES, *(f"{label.name}.nii.gz" for label in found.labels)],
        overwrite=writing.overwrite,
    )
    saved = publish_files(final, plan, record, progress)
    notes = (*found.notes, *dict.fromkeys(saved.notes))
    return Converted(folder=final, files=saved.files, notes=notes, labels=found.labels, flags=found.flags)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_names(types: Sequence[str]) -> None:
    for name in types:
        if name not in CONVERT_TYPES:
            raise OutputError(
                f"output type {name!r}",
                f"labels can be converted to {', '.join(CONVERT_TYPES)}",
                "Correct {output_types}.",
                option="output_types",
            )


def _ready(found: LabelSet, writing: Writing) -> tuple[LabelSet, Writing]:
    """Return the labels with the data that the requested outputs need, or refuse; DICOM outputs that are impossible
    become NIfTI.
    """
    if "nifti" in writing.output_types and not writing.per_label and found.overlaps:
        _ = found.array  # raises and names the labels that share voxels
    asked = [name for name in writing.output_types if name != "nifti"]
    if not asked:
        return found, writing
    reference = found.reference
    if reference is None or not reference.slices:
        what = "no image" if reference is None else f"a {reference.kind} image"
        raise OutputError(
            f"{what} to refer to for {' and '.join(asked)}",
            "DICOM objects refer to the original DICOM slices",
            "Give the series with {like=...}, or use {output_types=('nifti',)}.",
            option=("output_types", "like"),
        )
    if writing.repair_tags:
        reference, repaired = repair_uids(reference)
        found = replace(found, reference=reference).with_notes(*repaired)
    reasons = list(reference.blockers)
    if not reasons and not (found.present() or any(voxels.any() for _, voxels in found.masks_on_slices)):
        reasons = ["no label has any voxel"]
    if not reasons:
        return found, writing
    remedy = " To have them, let medvit repair the tags." if repairable(reference.blockers) else ""
    flag = f"{' and '.join(asked)} not written: {'; '.join(reasons)}. NIfTI was written instead.{remedy}"
    return found.with_notes(flags=[flag]), replace(writing, output_types=("nifti",))


def _writers(found: LabelSet, writing: Writing) -> list[Writer]:
    writers: list[Writer] = []
    for name in dict.fromkeys(writing.output_types):
        writers.append(partial(write_nifti, found) if name == "nifti" else partial(write_dicom, found, name))
    if writing.per_label:
        writers.append(partial(_write_each, found, writing))
    return writers


def _write_each(found: LabelSet, writing: Writing, staging: Path) -> list[str]:
    """Write one NIfTI for each label; return a note where labels overlap and a label map was requested."""
    write_each(found, staging)
    if not found.overlaps or "nifti" not in writing.output_types:
        return []
    pairs = ", ".join(f"{a} and {b} ({count} voxels)" for a, b, count in found.overlaps)
    return [f"Labels overlap, so there is one file each and no label map: {pairs}."]


def _record(
    found: LabelSet, origin: _ConversionSource, writing: Writing, files: dict[str, str], progress: Progress
) -> dict[str, Any]:
    """Return the content of ``run.json``; files are identified by hash, since their names can hold a patient's."""
    reference = found.reference
    return {
        **record_header(INTENDED_USE),
        "settings": {
            "output_types": list(writing.output_types),
            **origin.reading,
            "per_label": writing.per_label,
            "repair_tags": writing.repair_tags,
        },
        "source": origin.source,
        "reference": {"kind": reference.kind, "sha256": reference.fingerprint()} if reference else None,
        "grid": {"shape": list(found.shape), "spacing_mm": [round(s, 4) for s in spacing_mm(found.affine)]},
        "labels": {
            label.name: int(segment.voxels.sum()) for label, segment in zip(found.labels, found.segments, strict=True)
        },
        "notes": [*found.notes, *found.flags],
        "seconds": stage_seconds(progress),
        "files": files,
    }
