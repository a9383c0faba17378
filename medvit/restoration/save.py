"""Publishing a restored image: everything is written aside and checked, then takes its final name at once."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvit._version import __version__
from medvit.atomic_write import hashes_within, os_errors_as_output_errors, publish, staging_folder
from medvit.errors import OutputError
from medvit.reports import run_record
from medvit.restoration.preconditions import DESCRIPTION_PREFIX
from medvit.tasks import check_folder

if TYPE_CHECKING:
    from medvit.restoration.result import Restored

__all__ = [
    "RESTORED_TYPES",
    "RestoredOutput",
    "RestoredSaved",
    "check_restored_types",
    "save_restored",
    "usual_restored_types",
]

RESTORED_TYPES = ("nifti", "dicom")
"""What a restored image can be written as."""

_OURS = (
    "restored.nii.gz", "derived/[0-9]*.dcm", "maps/difference.nii.gz", "statistics.json", "statistics.csv", "preview.png",
    "run.json",
)  # fmt: skip


@dataclass(frozen=True)
class RestoredOutput:
    """What to write; see ``Restored.save``."""

    output_types: tuple[str, ...] = ("nifti",)
    preview: bool = False
    statistics: bool = False
    maps: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class RestoredSaved:
    """What was published; see ``medvit.segmentation.save.SavedResult``."""

    folder: Path
    files: tuple[str, ...]
    quality: dict[str, Any]
    not_written: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def flagged(self) -> bool:
        """Whether a person must look: something set aside, or a restoration that did not do what it should (exit code 3)."""
        return bool(self.not_written) or self.quality["rating"] == "poor"


def usual_restored_types(kind: str) -> tuple[str, ...]:
    """What is written where nobody says: the derived series too for a DICOM source."""
    return ("dicom", "nifti") if kind == "dicom" else ("nifti",)


def check_restored_types(types: Sequence[str], kind: str) -> None:
    """Refuse output types that do not exist or that this kind of source cannot have.

    Raises:
        OutputError: with what is possible.
    """
    for name in types:
        if name not in RESTORED_TYPES:
            raise OutputError(
                f"Found output type {name!r}; a restored image is written as {' or '.join(RESTORED_TYPES)}. Correct -ot."
            )
        if name == "dicom" and kind != "dicom":
            raise OutputError(
                f"Found output type 'dicom' for a {kind} source; a derived series refers to the original DICOM slices. "
                "Give the DICOM series as the source, or use -ot nifti."
            )


def save_restored(result: Restored, folder: str | os.PathLike[str], settings: RestoredOutput) -> RestoredSaved:
    """Write, check and publish a restored image; see ``Restored.save``."""
    final = Path(folder)
    check_restored_types(settings.output_types, result.scan.kind)
    check_folder(final, settings.overwrite)
    types, aside = _plan(result, settings.output_types)
    notes: list[str] = []
    with os_errors_as_output_errors(final), staging_folder(final) as staging:
        with result.progress.stage("write"):
            notes += _write_all(result, staging, types, settings)
        files = hashes_within(staging)
        said = tuple(dict.fromkeys((*result.notes, *notes, *aside)))
        (staging / "run.json").write_text(
            json.dumps(run_record(result, files, said, result.source_scan), indent=2) + "\n"
        )
        result.progress.check()
        publish(staging, final, _OURS)
    return RestoredSaved(final, tuple(sorted([*files, "run.json"])), result.quality(), aside, tuple(notes))


def _plan(result: Restored, asked: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The types that will be written, and what is set aside with its reason."""
    scan, aside = result.scan, result.scan.excluded
    types = set(asked)
    if "dicom" in types and scan.blockers:
        types = (types - {"dicom"}) | {"nifti"}
        words = (
            f"dicom not written: {'; '.join(scan.blockers)}. NIfTI was written instead. To have a derived series, add "
            "--repair-tags."
        )
        aside = (*aside, words)
    return tuple(name for name in RESTORED_TYPES if name in types), aside


def _write_all(result: Restored, staging: Path, types: Sequence[str], settings: RestoredOutput) -> list[str]:
    """Write every file; return what a reader must know about them."""
    from medvit.io import write_intensities

    notes = []
    words = f"{DESCRIPTION_PREFIX}: {result.bundle.name} {result.bundle.version}; research use"
    if "nifti" in types:
        write_intensities(staging / "restored.nii.gz", result.array, result.scan, words, result.source_scan)
    if "dicom" in types:
        result.progress.check()
        notes += _write_series(result, staging / "derived")
    if settings.maps:
        (staging / "maps").mkdir()
        _write_difference(result, staging / "maps" / "difference.nii.gz")
    result.progress.check()
    _write_statistics(result, staging, settings.statistics)
    if settings.preview:
        from medvit.restoration.preview import draw_restored_preview

        draw_restored_preview(staging / "preview.png", result)
    return notes


def _write_series(result: Restored, folder: Path) -> list[str]:
    from medvit.io.dicom.write import AlgorithmInfo, Derivation, check_derived, source_of, write_derived

    bundle, slices, values = result.bundle, source_of(result.scan), result.on_source_slices()
    author = AlgorithmInfo(f"{bundle.name} {bundle.version}", bundle.weights_sha256, __version__, bundle.intended_use)
    folder.mkdir()
    title = str(bundle.metadata.get("name", bundle.name))
    storage = write_derived(
        folder, values, slices, Derivation(author, title, bundle.facts.derivation, result.source_scan is not None)
    )
    check_derived(folder, values, slices)
    return (
        [] if storage.kept else ["The derived series has a rescale of its own: the source's could not hold its values."]
    )


def _write_difference(result: Restored, path: Path) -> None:
    import nibabel as nib

    image = nib.Nifti1Image((result.array - result.scan.array[0]).astype("float32"), result.scan.affine)
    image.set_sform(result.scan.affine, 1)
    image.set_qform(result.scan.affine, 1)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = b"restored minus source"
    nib.save(image, path)


def _write_statistics(result: Restored, staging: Path, as_csv: bool) -> None:
    change = result.statistics()
    rows = [asdict(row) for row in change.per_slice]
    numbers = {k: v for k, v in asdict(change).items() if k not in ("unit", "per_slice")}
    content = {
        "intended_use": result.bundle.intended_use,
        "bundle": f"{result.bundle.name} {result.bundle.version}",
        "intensity_unit": change.unit,
        "quality": result.quality(),
        "noise_method": "most frequent local standard deviation in squares of about 6 mm, after Christianson et al., AJR 205(1), 2015",
        "change": {**numbers, "noise_reduction_percent": change.noise_reduction_percent},
        "slices": rows,
    }
    (staging / "statistics.json").write_text(json.dumps(content, indent=2) + "\n")
    if as_csv:
        with (staging / "statistics.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
