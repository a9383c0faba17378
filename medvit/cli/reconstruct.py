"""``medvit reconstruct``: reconstruct bones in three dimensions from two radiographs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medvit.cli.common import (
    FLAGGED,
    Debug,
    Json,
    MemoryLimit,
    Output,
    Overwrite,
    Quiet,
    Terminal,
    Threads,
    Verbose,
    handle_errors,
    named_files,
    progress_bar,
    rating_words,
    split_values,
)
from medvit.settings import DEFAULT_RECONSTRUCTION

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table as RichTable

    from medvit.reconstruction import Reconstructed, ReconstructedOutput, ShapeMeasures
    from medvit.reconstruction.views import ViewGeometry
    from medvit.tasks import SavedResult

__all__ = ["reconstruct"]


@dataclass(frozen=True, kw_only=True)
class _Job:
    ap: Path
    lat: Path
    output: Path
    bundle: str
    flags: tuple[ViewGeometry, ViewGeometry]
    device: str
    force: bool
    threads: int | None
    write: ReconstructedOutput


def _each(text: str | None, option: str) -> tuple[float | None, float | None]:
    """Parse one number for both views, or two numbers separated by a comma for AP and lateral."""
    if text is None:
        return None, None
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in (1, 2):
        raise typer.BadParameter(
            f"found {text!r} for {option}; give one number, or two for AP and lateral, such as 0.15,0.2"
        )
    return values[0], values[-1]


def reconstruct(
    ap: Annotated[Path, typer.Option("--ap", help="AP (or PA) view: DICOM (CR, DX), PNG or JPEG.", show_default=False)],
    lat: Annotated[Path, typer.Option("--lat", help="Lateral view, of the same kinds.", show_default=False)],
    output: Output,
    bundle: Annotated[
        str, typer.Option("--bundle", "-b", "--task", "-ta", help="Bundle: name or folder.")
    ] = DEFAULT_RECONSTRUCTION,
    output_type: Annotated[
        list[str] | None,
        typer.Option(
            "--output-type", "-ot", help="nifti (labels), stl, ply or obj (meshes); repeatable. Default: nifti and stl."
        ),
    ] = None,
    pixel_spacing: Annotated[
        str | None,
        typer.Option(
            help="Pixel spacing of the detector in millimetres; one number, or two with a comma for AP and lateral."
        ),
    ] = None,
    magnification: Annotated[
        str | None,
        typer.Option(
            help="Magnification of the patient's middle on the detector; one number, or two with a comma for AP and lateral."
        ),
    ] = None,
    source_to_detector: Annotated[
        str | None,
        typer.Option(help="Distance from the focal spot to the detector in millimetres; one or two numbers."),
    ] = None,
    source_to_patient: Annotated[
        str | None,
        typer.Option(help="Distance from the focal spot to the patient's middle in millimetres; one or two numbers."),
    ] = None,
    invert: Annotated[bool, typer.Option("--invert", help="Invert both pictures: bone is dark in them.")] = False,
    device: Annotated[str, typer.Option("--device", "-d", help="auto, cpu, gpu, gpu:N or mps.")] = "auto",
    preview: Annotated[bool, typer.Option("--preview", "-p", help="Also write preview.png.")] = False,
    statistics: Annotated[
        bool, typer.Option("--statistics", "-s", help="Also write statistics.csv and print the table.")
    ] = False,
    maps: Annotated[
        bool,
        typer.Option(
            "--maps", help="Also write maps/entropy.nii.gz: the uncertainty of the network, in bits for each voxel."
        ),
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Accept views that look unsuitable or name different patients; recorded in run.json."
        ),
    ] = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    as_json: Json = False,
    memory_limit: MemoryLimit = None,
    threads: Threads = None,
    debug: Debug = False,
) -> None:
    """Reconstruct bones from two X-rays. For research use, not for diagnosis."""
    pixels, larger = _each(pixel_spacing, "--pixel-spacing"), _each(magnification, "--magnification")
    far, near = _each(source_to_detector, "--source-to-detector"), _each(source_to_patient, "--source-to-patient")
    shown = Terminal(quiet, verbose, as_json, debug)
    with handle_errors(shown):
        from medvit.reconstruction import ReconstructedOutput
        from medvit.reconstruction.views import ViewGeometry

        flags = [
            ViewGeometry(
                pixel_spacing_mm=pixels[n],
                magnification=larger[n],
                source_to_detector_mm=far[n],
                source_to_patient_mm=near[n],
                invert=invert,
            )
            for n in (0, 1)
        ]
        types = split_values(output_type) or ("nifti", "stl")
        write = ReconstructedOutput(
            output_types=types, preview=preview, statistics=statistics, overwrite=overwrite, maps=maps
        )
        saved = _reconstruct(
            _Job(
                ap=ap,
                lat=lat,
                output=output,
                bundle=bundle,
                flags=(flags[0], flags[1]),
                device=device,
                force=force,
                threads=threads,
                write=write,
            ),
            shown,
        )
    if saved.flagged:
        raise typer.Exit(FLAGGED)


def _reconstruct(job: _Job, shown: Terminal) -> SavedResult:
    from medvit.bundles import open_bundle
    from medvit.pipeline import prepare, run
    from medvit.reconstruction import (
        Reconstructed,
        ReconstructionSettings,
        ViewInput,
        check_reconstructed_types,
        save_reconstructed,
    )
    from medvit.tasks import check_folder

    bundle = open_bundle(job.bundle)
    bundle.require_task("reconstruction")
    bundle.require_trained()
    check_reconstructed_types(job.write.output_types)
    check_folder(job.output, job.write.overwrite)
    with progress_bar(shown) as progress:
        views = {
            "ap": ViewInput(source=job.ap, geometry=job.flags[0]),
            "lat": ViewInput(source=job.lat, geometry=job.flags[1]),
        }
        settings = ReconstructionSettings(job.device, job.force, job.threads)
        prepared = prepare(bundle, views, settings, progress)
        # torch takes seconds to import, so mistakes are refused before
        from medvit.inference import never_train

        never_train()
        result = run(bundle, prepared, settings, progress)
        assert isinstance(result, Reconstructed)  # a bundle that reconstructs returns nothing else
        saved = save_reconstructed(result, job.output, job.write)
    _report(result, saved, job, shown)
    return saved


def _report(result: Reconstructed, saved: SavedResult, job: _Job, shown: Terminal) -> None:
    if shown.json:
        outcome = {
            "output": str(saved.folder),
            "files": saved.files,
            "quality": saved.quality,
            "consistency": result.consistency(),
            "notes": result.notes,
            "device": result.settings["device"],
        }
        typer.echo(json.dumps(outcome, indent=2))
    if job.write.statistics and not (shown.quiet or shown.json):
        _table(result)
    if saved.quality["rating"] == "poor":
        typer.echo(f"Warning: quality is poor: {'; '.join(saved.quality['reasons'])}.", err=True)
    for note in result.notes:
        shown.say(f"Note: {note}")
    shown.say_seconds(result.progress)
    found = sum(1 for shape in result.statistics() if shape.voxels)
    agreement = ", ".join(f"{slot} {value:.2f}" for slot, value in result.consistency().items())
    shown.say(
        f"{found} of {len(result.requested_labels)} bodies found on {result.settings['device']}; agreement with the views: {agreement}; "
        f"{rating_words(saved.quality)}. {result.bundle.intended_use}."
    )
    shown.say(f"Results: {saved.folder}  ({', '.join(named_files(saved.files))})")


def _table(result: Reconstructed) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("Body", "Volume (mL)", "Surface (cm2)", "Extent (mm)", "At border")
    for shape in result.statistics():
        area = "-" if shape.surface_mm2 is None else f"{shape.surface_mm2 / 100:.0f}"
        extent = "-" if shape.extent_mm is None else " x ".join(f"{v:.0f}" for v in shape.extent_mm)
        table.add_row(shape.title, f"{shape.volume_ml:.1f}", area, extent, "yes" if shape.touches_border else "no")
    Console().print(table)
    bones = [shape for shape in result.statistics() if shape.structure]
    if bones:
        Console().print(_bones(bones))


def _bones(bones: Sequence[ShapeMeasures]) -> RichTable:
    """Make a table of the measures of femora, hips, vertebrae and ribs, with reasons for missing measures."""
    from rich.table import Table

    table = Table("Body", "Measure", "Value")
    for shape in bones:
        for name, value in shape.morphometry.items():
            table.add_row(shape.title, *_named(name, f"{value:.1f}"))
        for name, reason in shape.not_measured.items():
            table.add_row(shape.title, _named(name, "")[0], f"not measured: {reason}")
    return table


def _named(name: str, value: str) -> tuple[str, str]:
    """Split a name such as ``neck_shaft_deg`` into words, and append its unit to the value."""
    words, _, unit = name.rpartition("_")
    return words.replace("_", " ").capitalize(), f"{value} {unit}"
