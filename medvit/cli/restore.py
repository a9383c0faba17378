"""``medvit restore``: reduce noise or blur in a scan."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medvit.cli.common import (
    FLAGGED,
    Debug,
    Geometry,
    Json,
    MemoryLimit,
    Output,
    Overwrite,
    Quiet,
    RepairTags,
    Terminal,
    Threads,
    Verbose,
    handle_errors,
    named_files,
    progress_bar,
    rating_words,
    split_values,
)
from medvit.settings import DEFAULT_RESTORATION

if TYPE_CHECKING:
    from medvit.restoration import Restored, RestoredOutput
    from medvit.settings import RunSettings
    from medvit.tasks import SavedResult

__all__ = ["restore"]


@dataclass(frozen=True, kw_only=True)
class _Job:
    source: str
    output: Path
    bundle: str
    types: tuple[str, ...]
    run: RunSettings
    on_irregular: str | None
    write: RestoredOutput


def restore(
    source: Annotated[str, typer.Argument(help="DICOM folder or zip, NIfTI, NRRD or MHA.", show_default=False)],
    output: Output,
    bundle: Annotated[
        str, typer.Option("--bundle", "-b", "--task", "-ta", help="Bundle: name or folder.")
    ] = DEFAULT_RESTORATION,
    output_type: Annotated[
        list[str] | None,
        typer.Option(
            "--output-type",
            "-ot",
            help="nifti or dicom (a derived series); repeatable. Default: both for DICOM, nifti for other volumes.",
        ),
    ] = None,
    device: Annotated[str, typer.Option("--device", "-d", help="auto, cpu, gpu, gpu:N or mps.")] = "auto",
    preview: Annotated[
        bool, typer.Option("--preview", "-p", help="Also write preview.png: before, after, difference.")
    ] = False,
    statistics: Annotated[
        bool, typer.Option("--statistics", "-s", help="Also write statistics.csv, one line for each slice.")
    ] = False,
    maps: Annotated[
        bool, typer.Option("--maps", help="Also write maps/difference.nii.gz: restored minus source.")
    ] = False,
    fast: Annotated[
        bool, typer.Option("--fast", "-f", help="Less overlap between windows, if the bundle states it.")
    ] = False,
    series: Annotated[
        str | None, typer.Option("--series", help="Number or UID of the series, if the source holds several.")
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Restore another modality, or an image that was restored before; recorded in run.json."
        ),
    ] = False,
    repair_tags: RepairTags = False,
    memory_limit: MemoryLimit = None,
    threads: Threads = None,
    on_irregular: Annotated[
        str | None,
        typer.Option(
            "--on-irregular",
            help="fail, resample or split a tilted or uneven DICOM stack. Default: its slices are restored where they lie "
            "if the network looks at single slices (restored.nii.gz is then resampled), else fail.",
            show_default=False,
        ),
    ] = None,
    geometry: Geometry = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Remove noise from a scan, or make its pixels finer. For research use, not for diagnosis."""
    shown = Terminal(quiet, verbose, as_json, debug)
    with handle_errors(shown):
        from medvit.restoration import RestoredOutput
        from medvit.settings import RunSettings

        job = _Job(
            source=source,
            output=output,
            bundle=bundle,
            types=split_values(output_type),
            run=RunSettings(
                device=device,
                fast=fast,
                force=force,
                repair_tags=repair_tags,
                series=series,
                geometry=geometry,
                threads=threads,
            ),
            on_irregular=on_irregular,
            write=RestoredOutput(preview=preview, statistics=statistics, maps=maps, overwrite=overwrite),
        )
        saved = _restore(job, shown)
    if saved.flagged:
        raise typer.Exit(FLAGGED)


def _restore(job: _Job, shown: Terminal) -> SavedResult:
    from dataclasses import replace

    from medvit.bundles import open_bundle
    from medvit.io import open_source
    from medvit.restoration import check_restored_types, save_restored, usual_restored_types, with_irregular_policy
    from medvit.tasks import check_folder

    bundle = open_bundle(job.bundle)
    bundle.require_task("restoration")
    bundle.require_trained()
    check_folder(job.output, job.write.overwrite)
    run = with_irregular_policy(bundle, job.run, job.on_irregular)
    with progress_bar(shown) as progress:
        with progress.stage("read"):
            scan = open_source(job.source, run.series, progress, run.on_irregular, run.geometry)
        write = replace(job.write, output_types=job.types or usual_restored_types(scan.kind))
        check_restored_types(write.output_types, scan.kind)
        # torch takes seconds to import, so mistakes are refused before
        from medvit.inference import never_train

        never_train()
        from medvit import pipeline
        from medvit.restoration import Restored

        result = pipeline.run(bundle, scan, run, progress)
        assert isinstance(result, Restored)  # a bundle that restores returns nothing else
        saved = save_restored(result, job.output, write)
    _report(result, saved, shown)
    return saved


def _report(result: Restored, saved: SavedResult, shown: Terminal) -> None:
    change = result.statistics()
    if shown.json:
        outcome = {
            "output": str(saved.folder),
            "files": saved.files,
            "quality": saved.quality,
            "noise_before": change.noise_before,
            "noise_after": change.noise_after,
            "mean_difference": change.mean_difference,
            "notes": list(dict.fromkeys((*result.notes, *saved.notes, *saved.not_written))),
            "device": result.settings["device"],
        }
        typer.echo(json.dumps(outcome, indent=2))
    for note in saved.not_written:
        typer.echo(f"Warning: {note}", err=True)
    if saved.quality["rating"] == "poor":
        typer.echo(f"Warning: quality is poor: {'; '.join(saved.quality['reasons'])}.", err=True)
    for note in (*result.notes, *saved.notes):
        if note not in saved.not_written:
            shown.say(f"Note: {note}")
    shown.say_seconds(result.progress)
    noise = "no tissue to measure noise in"
    if change.noise_before is not None and change.noise_after is not None:
        noise = f"noise {change.noise_before:.1f} to {change.noise_after:.1f} {change.unit}"
    shown.say(
        f"Restored on {result.settings['device']}: {noise}; {rating_words(saved.quality)}. {result.bundle.intended_use}."
    )
    shown.say(f"Results: {saved.folder}  ({', '.join(named_files(saved.files))})")
