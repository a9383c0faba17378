"""Output of a restored image as NIfTI or a derived DICOM series, with its statistics and preview."""

from __future__ import annotations

import csv
import os
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from medvit._version import __version__
from medvit.errors import OutputError
from medvit.reports import run_record, source_facts
from medvit.restoration.preconditions import DESCRIPTION_PREFIX
from medvit.restoration.result_protocol import RestorationResult
from medvit.tasks import SavedResult, SavePlan, Writer, publish_result, write_statistics

__all__ = [
    "RESTORED_TYPES",
    "RestoredOutput",
    "check_restored_types",
    "save_restored",
    "usual_restored_types",
]

RESTORED_TYPES = ("nifti", "dicom")
"""Output types of a restored image."""

_OUTPUT_FILES = (
    "restored.nii.gz", "derived/[0-9]*.dcm", "maps/difference.nii.gz", "statistics.json", "statistics.csv", "preview.png",
    "run.json",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RestoredOutput:
    """Settings for the outputs of a restoration.

    Attributes:
        output_types, preview, statistics, maps, overwrite: as for ``Restored.save``.

    Examples:
        >>> from medvit.restoration import RestoredOutput
        >>> RestoredOutput(maps=True).output_types
        ('nifti',)
    """

    output_types: tuple[str, ...] = ("nifti",)
    preview: bool = False
    statistics: bool = False
    maps: bool = False
    overwrite: bool = False


def usual_restored_types(kind: str) -> tuple[str, ...]:
    """Return the default output types: NIfTI, and for a DICOM source also the derived series.

    Args:
        kind: kind of the source, see ``Scan.kind``.

    Returns:
        Names of output types.

    Examples:
        >>> from medvit.restoration import usual_restored_types
        >>> usual_restored_types("dicom")
        ('dicom', 'nifti')
    """
    return ("dicom", "nifti") if kind == "dicom" else ("nifti",)


def check_restored_types(types: Sequence[str], kind: str) -> None:
    """Refuse output types that do not exist or do not suit the kind of source.

    Args:
        types: names of output types.
        kind: kind of the source, see ``Scan.kind``.

    Raises:
        OutputError: a type is unknown or needs another kind of source; the message names what is possible.

    Examples:
        >>> from medvit.restoration import check_restored_types
        >>> check_restored_types(["nifti"], "nifti")
    """
    for name in types:
        if name not in RESTORED_TYPES:
            raise OutputError(
                f"output type {name!r}",
                f"a restored image is written as {' or '.join(RESTORED_TYPES)}",
                "Correct {output_types}.",
                option="output_types",
            )
        if name == "dicom" and kind != "dicom":
            raise OutputError(
                f"output type 'dicom' for a {kind} source",
                "a derived series refers to the original DICOM slices",
                "Give the DICOM series as the source, or use {output_types=('nifti',)}.",
                option="output_types",
            )


def save_restored(result: RestorationResult, folder: str | os.PathLike[str], settings: RestoredOutput) -> SavedResult:
    """Write, check and publish a restored image; see ``Restored.save``.

    Args:
        result: the restored image.
        folder: folder to write to.
        settings: output types and options.

    Returns:
        The files written, with notes.

    Examples:
        >>> import medvit
        >>> from medvit.restoration import RestoredOutput, save_restored
        >>> save_restored(medvit.restore("series"), "out", RestoredOutput(preview=True))  # doctest: +SKIP
    """
    check_restored_types(settings.output_types, result.scan.kind)
    source = result.source_scan or result.scan

    def record(files: dict[str, str], notes: tuple[str, ...]) -> dict[str, Any]:
        return run_record(result, files, notes, {"source": source_facts(source)}, source.creation)

    return publish_result(result, folder, _plan(result, settings), record)


def _plan(result: RestorationResult, settings: RestoredOutput) -> SavePlan:
    scan, not_written = result.scan, result.scan.excluded
    types = set(settings.output_types)
    if "dicom" in types and scan.blockers:
        types = (types - {"dicom"}) | {"nifti"}
        words = (
            f"dicom not written: {'; '.join(scan.blockers)}. NIfTI was written instead. To have a derived series, let "
            "medvit repair the tags."
        )
        not_written = (*not_written, words)
    return SavePlan(
        writers=_writers(result, types, settings),
        output_files=_OUTPUT_FILES,
        overwrite=settings.overwrite,
        not_written=not_written,
    )


def _writers(result: RestorationResult, types: Collection[str], settings: RestoredOutput) -> list[Writer]:
    writers: list[Writer] = []
    if "nifti" in types:
        writers.append(partial(_write_nifti, result))
    if "dicom" in types:
        writers.append(partial(_write_series, result))
    if settings.maps:
        writers.append(partial(_write_difference, result))
    writers.append(partial(_write_statistics, result, settings.statistics))
    if settings.preview:
        writers.append(partial(_write_preview, result))
    return writers


def _write_nifti(result: RestorationResult, staging: Path) -> None:
    from medvit.io import write_intensities

    words = f"{DESCRIPTION_PREFIX}: {result.bundle.name} {result.bundle.version}; research use"
    write_intensities(staging / "restored.nii.gz", result.array, result.scan, words, result.source_scan)


def _write_preview(result: RestorationResult, staging: Path) -> None:
    from medvit.restoration.preview import draw_restored_preview

    draw_restored_preview(staging / "preview.png", result)


def _write_series(result: RestorationResult, staging: Path) -> list[str]:
    """Write the derived series; return a note if it needs a rescale other than the source's."""
    from medvit.io.dicom.write import AlgorithmInfo, Derivation, check_derived, source_of, write_derived

    bundle, slices, values = result.bundle, source_of(result.scan), result.on_source_slices()
    author = AlgorithmInfo(
        bundle=f"{bundle.name} {bundle.version}",
        weights=bundle.weights_sha256,
        software=__version__,
        intended_use=bundle.intended_use,
    )
    folder = staging / "derived"
    folder.mkdir()
    title = str(bundle.metadata.get("name", bundle.name))
    storage = write_derived(
        folder, values, slices, Derivation(author, title, bundle.facts.derivation, result.source_scan is not None)
    )
    check_derived(folder, values, slices)
    return (
        [] if storage.kept else ["The derived series has a rescale of its own: the source's could not hold its values."]
    )


def _write_difference(result: RestorationResult, staging: Path) -> None:
    from medvit.io import write_volume

    folder = staging / "maps"
    folder.mkdir()
    difference = (result.array - result.scan.array[0]).astype("float32")
    write_volume(folder / "difference.nii.gz", difference, result.scan.affine, "restored minus source")


def _write_statistics(result: RestorationResult, as_csv: bool, staging: Path) -> None:
    change = result.statistics()
    rows = [asdict(row) for row in change.per_slice]
    numbers = {k: v for k, v in asdict(change).items() if k not in ("unit", "per_slice")}
    content = {
        "intensity_unit": change.unit,
        "quality": result.quality(),
        "noise_method": "most frequent local standard deviation in squares of about 6 mm, after Christianson et al., AJR 205(1), 2015",
        "change": {**numbers, "noise_reduction_percent": change.noise_reduction_percent},
        "slices": rows,
    }
    write_statistics(staging, result.bundle, content)
    if as_csv:
        with (staging / "statistics.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
