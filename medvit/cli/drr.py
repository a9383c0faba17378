"""``medvit drr``: make digitally reconstructed radiographs from a CT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medvit.cli.common import (
    FLAGGED,
    Debug,
    Geometry,
    Json,
    MemoryLimit,
    Overwrite,
    Quiet,
    Terminal,
    Verbose,
    handle_errors,
    progress_bar,
)

if TYPE_CHECKING:
    from medvit.reconstruction.radiographs import Radiographs

__all__ = ["drr"]


def _angles(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise typer.BadParameter(f"found {text!r}; give angles in degrees separated by commas, such as 0,90") from None


def drr(
    source: Annotated[str, typer.Argument(help="CT: DICOM folder or zip, NIfTI, NRRD or MHA.", show_default=False)],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the radiographs; created.", show_default=False)
    ],
    views: Annotated[
        str, typer.Option("--views", help="Angles in degrees: 0 is AP, 90 has the source on the patient's left.")
    ] = "0,90",
    output_type: Annotated[
        list[str] | None,
        typer.Option(
            "--output-type",
            "-ot",
            help="png (16 bits), dicom (CR) or nifti (line integrals); repeatable. Default: png.",
        ),
    ] = None,
    source_to_isocenter: Annotated[
        float, typer.Option(help="Distance from the focal spot to the axis of rotation in millimetres.")
    ] = 1000.0,
    isocenter_to_detector: Annotated[
        float, typer.Option(help="Distance from the axis of rotation to the detector in millimetres.")
    ] = 500.0,
    pixel_spacing: Annotated[float, typer.Option(help="Pixel spacing of the detector in millimetres.")] = 1.0,
    rows: Annotated[int | None, typer.Option(help="Detector rows. Default: as many as the projection needs.")] = None,
    columns: Annotated[
        int | None, typer.Option(help="Detector columns. Default: as many as the projection needs.")
    ] = None,
    energy: Annotated[float, typer.Option(help="Photon energy for the attenuation of water in keV, 20 to 200.")] = 60.0,
    preset: Annotated[
        str | None,
        typer.Option(help="Distances and detector of published radiographs: swin-x2s or swin-x2s-released."),
    ] = None,
    as_published: Annotated[
        bool,
        typer.Option(
            "--as-published", help="With a preset: also reproduce its faults, for an exact comparison; 8 bits."
        ),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Accept a source that does not look like CT; recorded in run.json.")
    ] = False,
    geometry: Geometry = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    as_json: Json = False,
    memory_limit: MemoryLimit = None,
    debug: Debug = False,
) -> None:
    """Make digitally reconstructed radiographs from a CT. For research use, not for diagnosis."""
    if (rows is None) != (columns is None):
        raise typer.BadParameter("found one of --rows and --columns; give both or neither")
    angles = _angles(views)
    shown = Terminal(quiet, verbose, as_json, debug)
    with handle_errors(shown):
        from medvit.reconstruction.radiographs import DrrSettings, check_drr_settings, radiographs, save_radiographs
        from medvit.tasks import check_folder

        types = tuple(output_type or ["png"])
        shape = None if rows is None or columns is None else (rows, columns)
        settings = DrrSettings(
            views_deg=angles,
            source_to_isocenter_mm=source_to_isocenter,
            isocenter_to_detector_mm=isocenter_to_detector,
            pixel_spacing_mm=pixel_spacing,
            detector_shape=shape,
            energy_kev=energy,
            preset=preset,
            as_published=as_published,
            force=force,
            geometry=geometry,
        )
        check_drr_settings(settings, types)
        check_folder(output, overwrite)
        with progress_bar(shown) as progress:
            pictures = radiographs(source, settings, progress)
            files = save_radiographs(pictures, output, types)
        _report(pictures, files, output, shown)
    if pictures.scan.excluded:
        raise typer.Exit(FLAGGED)


def _report(pictures: Radiographs, files: list[str], output: Path, shown: Terminal) -> None:
    if shown.json:
        typer.echo(json.dumps({"output": str(output), "files": files, "notes": list(pictures.notes)}, indent=2))
    for note in pictures.scan.excluded:
        typer.echo(f"Warning: {note}", err=True)
    for note in pictures.notes:
        if note not in pictures.scan.excluded:
            shown.say(f"Note: {note}")
    shown.say_seconds(pictures.progress)
    detector = " x ".join(map(str, pictures.geometry.detector_shape))
    shown.say(
        f"{len(pictures.geometry.views_deg)} view(s) of {detector} pixels, magnification {pictures.geometry.magnification:.3f}."
    )
    shown.say(f"Results: {output}  ({', '.join(files)})")
