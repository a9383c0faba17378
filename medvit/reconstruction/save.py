"""Output of a reconstruction as NIfTI and meshes, with its statistics and preview."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvit.errors import OutputError, RoundTripError
from medvit.io import MESH_WRITERS
from medvit.reconstruction.result_protocol import ReconstructionResult
from medvit.reports import run_record
from medvit.tasks import SavedResult, SavePlan, Writer, publish_result, write_statistics

if TYPE_CHECKING:
    from medvit.reconstruction.views import View

__all__ = [
    "RECONSTRUCTED_TYPES",
    "ReconstructedOutput",
    "check_reconstructed_types",
    "save_reconstructed",
]

RECONSTRUCTED_TYPES = ("nifti", *MESH_WRITERS)
"""Output types of a reconstruction."""

_OUTPUT_FILES = (
    "labels.nii.gz", "labels.json", "meshes/*.stl", "meshes/*.ply", "meshes/*.obj", "statistics.json", "statistics.csv",
    "preview.png", "run.json", "maps/entropy.nii.gz",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ReconstructedOutput:
    """Settings for the outputs of a reconstruction.

    Attributes:
        output_types, preview, statistics, overwrite, maps: as for ``Reconstructed.save``.

    Examples:
        >>> from medvit.reconstruction import ReconstructedOutput
        >>> ReconstructedOutput().output_types
        ('nifti', 'stl')
    """

    output_types: tuple[str, ...] = ("nifti", "stl")
    preview: bool = False
    statistics: bool = False
    overwrite: bool = False
    maps: bool = False


def check_reconstructed_types(types: Sequence[str]) -> None:
    """Refuse unknown output types.

    Args:
        types: names of output types.

    Raises:
        OutputError: a type is unknown; the message names what is possible.

    Examples:
        >>> from medvit.reconstruction import check_reconstructed_types
        >>> check_reconstructed_types(["nifti", "stl"])
    """
    for name in types:
        if name not in RECONSTRUCTED_TYPES:
            raise OutputError(
                f"output type {name!r}",
                f"a reconstruction is written as {', '.join(RECONSTRUCTED_TYPES)}",
                "Correct {output_types}.",
                option="output_types",
            )


def save_reconstructed(
    result: ReconstructionResult, folder: str | os.PathLike[str], settings: ReconstructedOutput
) -> SavedResult:
    """Write, check and publish a reconstruction; see ``Reconstructed.save``.

    Args:
        result: the reconstruction.
        folder: folder to write to.
        settings: output types and options.

    Returns:
        The files written, with notes.

    Examples:
        >>> import medvit
        >>> from medvit.reconstruction import ReconstructedOutput, save_reconstructed
        >>> save_reconstructed(medvit.reconstruct("ap.dcm", "lat.dcm"), "out", ReconstructedOutput())  # doctest: +SKIP
    """
    check_reconstructed_types(settings.output_types)
    plan = SavePlan(writers=_writers(result, settings), output_files=_OUTPUT_FILES, overwrite=settings.overwrite)

    def record(files: dict[str, str], _: tuple[str, ...]) -> dict[str, Any]:
        return run_record(result, files, result.notes, {"views": [_view_facts(view) for view in result.views]})

    return publish_result(result, folder, plan, record)


def _writers(result: ReconstructionResult, settings: ReconstructedOutput) -> list[Writer]:
    writers: list[Writer] = []
    if "nifti" in settings.output_types:
        writers.append(partial(_write_nifti, result))
    writers += [partial(_write_meshes, result, kind) for kind in MESH_WRITERS if kind in settings.output_types]
    if settings.maps:
        writers.append(partial(_write_entropy_map, result))
    writers.append(partial(_write_statistics, result, settings.statistics))
    if settings.preview:
        writers.append(partial(_write_preview, result))
    return writers


def _write_nifti(result: ReconstructionResult, staging: Path) -> None:
    import numpy as np

    from medvit.io import Scan, write_label_names, write_labels

    grid = Scan(array=np.zeros((1, *result.array.shape), np.float32), affine=result.affine, kind="array")
    write_labels(staging / "labels.nii.gz", result.array, grid, result.requested_labels)
    write_label_names(staging / "labels.json", result.requested_labels)


def _write_preview(result: ReconstructionResult, staging: Path) -> None:
    from medvit.reconstruction.preview import draw_reconstruction_preview

    draw_reconstruction_preview(staging / "preview.png", result)


def _write_meshes(result: ReconstructionResult, kind: str, staging: Path) -> None:
    folder = staging / "meshes"
    folder.mkdir(exist_ok=True)
    for name, surface in result.surfaces.items():
        if not surface.is_closed:
            raise RoundTripError(
                f"a surface of {name} with a hole or a flap",
                "it must be closed",
                "Nothing was published: please report this with run settings and medvit doctor's output.",
            )
        words = f"{name}; {result.bundle.name} {result.bundle.version}; research use"
        MESH_WRITERS[kind](folder / f"{name}.{kind}", surface, words)


def _write_entropy_map(result: ReconstructionResult, staging: Path) -> None:
    """Write the bits of every voxel on the grid of the labels."""
    from medvit.io import write_volume

    if result.entropy_map is None:
        raise OutputError(
            f"no uncertainty of {result.bundle.name} on the grid of its labels",
            "{maps} need it",
            "Leave {maps} out.",
            option="maps",
        )
    folder = staging / "maps"
    folder.mkdir()
    write_volume(folder / "entropy.nii.gz", result.entropy_map, result.affine)


def _write_statistics(result: ReconstructionResult, as_csv: bool, staging: Path) -> None:
    from medvit.reconstruction.statistics import write_shapes

    content = {
        "quality": result.quality(),
        "entropy_bits": result.entropy(),
        "consistency": {"measure": "gradient correlation, Penney et al., IEEE TMI 17(4), 1998", **result.consistency()},
        "field_covered": {
            view.slot: round(share, 4) for view, share in zip(result.views, result.field_coverage, strict=True)
        },
        "labels": [asdict(row) for row in result.statistics()],
    }
    write_statistics(staging, result.bundle, content)
    if as_csv:
        write_shapes(staging / "statistics.csv", result.statistics())


def _view_facts(view: View) -> dict[str, Any]:
    """Return the facts about a view for ``run.json``; it is identified only by a fingerprint of its pixels."""
    return {
        "slot": view.slot,
        "modality": view.modality,
        "shape": list(view.values.shape),
        "pixel_mm_in_patient": [round(v, 5) for v in view.pixel_mm],
        "magnification": round(view.magnification, 5),
        "source_to_patient_mm": view.source_to_patient_mm,
        "geometry_from": view.geometry_from,
        "sha256": view.fingerprint,
    }
