"""Publishing a reconstruction: everything is written aside and checked, then takes its final name at once."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvit.atomic_write import hashes_within, os_errors_as_output_errors, publish, staging_folder
from medvit.errors import OutputError, RoundTripError
from medvit.io import MESH_WRITERS
from medvit.reports import record_header, stage_seconds
from medvit.tasks import check_folder

if TYPE_CHECKING:
    from medvit.reconstruction.result import Reconstructed

__all__ = [
    "RECONSTRUCTED_TYPES",
    "ReconstructedOutput",
    "ReconstructedSaved",
    "check_reconstructed_types",
    "save_reconstructed",
]

RECONSTRUCTED_TYPES = ("nifti", *MESH_WRITERS)
"""What a reconstruction can be written as."""

_OURS = (
    "labels.nii.gz", "labels.json", "meshes/*.stl", "meshes/*.ply", "meshes/*.obj", "statistics.json", "statistics.csv",
    "preview.png", "run.json", "maps/entropy.nii.gz",
)  # fmt: skip


@dataclass(frozen=True)
class ReconstructedOutput:
    """What to write; see ``Reconstructed.save``."""

    output_types: tuple[str, ...] = ("nifti", "stl")
    preview: bool = False
    statistics: bool = False
    overwrite: bool = False
    maps: bool = False


@dataclass(frozen=True)
class ReconstructedSaved:
    """Published output: the folder, paths within it, and the rating."""

    folder: Path
    files: tuple[str, ...]
    quality: dict[str, Any]

    @property
    def flagged(self) -> bool:
        """Whether a person must look (exit code 3)."""
        return bool(self.quality["rating"] == "poor")


def check_reconstructed_types(types: Sequence[str]) -> None:
    """Refuse output types that do not exist.

    Raises:
        OutputError: with what is possible.
    """
    for name in types:
        if name not in RECONSTRUCTED_TYPES:
            raise OutputError(
                f"Found output type {name!r}; a reconstruction is written as {', '.join(RECONSTRUCTED_TYPES)}. Correct -ot."
            )


def save_reconstructed(
    result: Reconstructed, folder: str | os.PathLike[str], settings: ReconstructedOutput
) -> ReconstructedSaved:
    """Write, check and publish a reconstruction; see ``Reconstructed.save``."""
    final = Path(folder)
    check_reconstructed_types(settings.output_types)
    check_folder(final, settings.overwrite)
    with os_errors_as_output_errors(final), staging_folder(final) as staging:
        with result.progress.stage("write"):
            _write_all(result, staging, settings)
        files = hashes_within(staging)
        (staging / "run.json").write_text(json.dumps(_record(result, files), indent=2) + "\n")
        result.progress.check()
        publish(staging, final, _OURS)
    return ReconstructedSaved(final, tuple(sorted([*files, "run.json"])), result.quality())


def _write_all(result: Reconstructed, staging: Path, settings: ReconstructedOutput) -> None:
    import numpy as np

    from medvit.io import Scan, write_label_names, write_labels
    from medvit.reconstruction.statistics import write_shapes

    if "nifti" in settings.output_types:
        grid = Scan(np.zeros((1, *result.array.shape), np.float32), result.affine, "array")
        write_labels(staging / "labels.nii.gz", result.array, grid, result.requested_labels)
        write_label_names(staging / "labels.json", result.requested_labels)
    for kind in MESH_WRITERS:
        if kind in settings.output_types:
            result.progress.check()
            _write_meshes(result, staging / "meshes", kind)
    if settings.maps:
        (staging / "maps").mkdir()
        _write_entropy_map(result, staging / "maps" / "entropy.nii.gz")
    _write_statistics(result, staging)
    if settings.statistics:
        write_shapes(staging / "statistics.csv", result.statistics())
    if settings.preview:
        from medvit.reconstruction.preview import draw_reconstruction_preview

        draw_reconstruction_preview(staging / "preview.png", result)


def _write_meshes(result: Reconstructed, folder: Path, kind: str) -> None:
    folder.mkdir(exist_ok=True)
    for name, surface in result.surfaces.items():
        if not surface.is_closed:
            raise RoundTripError(
                f"Found a surface of {name} with a hole or a flap; it must be closed. Nothing was published: please report this "
                "with run settings and medvit doctor's output."
            )
        words = f"{name}; {result.bundle.name} {result.bundle.version}; research use"
        MESH_WRITERS[kind](folder / f"{name}.{kind}", surface, words)


def _write_entropy_map(result: Reconstructed, path: Path) -> None:
    """Bits of every voxel, on the labels' grid."""
    import nibabel as nib

    if result.entropy_map is None:
        raise OutputError(
            f"Found no doubt of {result.bundle.name} on the grid of its labels; a map needs it. Leave --maps out."
        )
    image = nib.Nifti1Image(result.entropy_map, result.affine)
    image.set_sform(result.affine, 1)
    image.set_qform(result.affine, 1)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)


def _write_statistics(result: Reconstructed, staging: Path) -> None:
    content = {
        "intended_use": result.bundle.intended_use,
        "bundle": f"{result.bundle.name} {result.bundle.version}",
        "quality": result.quality(),
        "entropy_bits": result.entropy(),
        "consistency": {"measure": "gradient correlation, Penney et al., IEEE TMI 17(4), 1998", **result.consistency()},
        "field_covered": {
            view.slot: round(share, 4) for view, share in zip(result.views, result.field_coverage, strict=True)
        },
        "labels": [asdict(row) for row in result.statistics()],
    }
    (staging / "statistics.json").write_text(json.dumps(content, indent=2) + "\n")


def _record(result: Reconstructed, files: dict[str, str]) -> dict[str, Any]:
    """What goes into ``run.json``; the views are named by fingerprints of their pixels alone."""
    bundle = result.bundle
    return {
        **record_header(bundle.intended_use),
        "bundle": {"name": bundle.name, "version": bundle.version, "weights_sha256": bundle.weights_sha256},
        "settings": result.settings,
        "views": [
            {
                "slot": view.slot,
                "modality": view.modality,
                "shape": list(view.values.shape),
                "pixel_mm_in_patient": [round(v, 5) for v in view.pixel_mm],
                "magnification": round(view.magnification, 5),
                "source_to_patient_mm": view.source_to_patient_mm,
                "geometry_from": view.geometry_from,
                "sha256": view.fingerprint,
            }
            for view in result.views
        ],
        "quality": result.quality(),
        "notes": list(result.notes),
        "seconds": stage_seconds(result.progress),
        "files": files,
    }
