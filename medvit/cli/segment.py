"""``medvit segment``: label the anatomy in a scan."""

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
    OnIrregular,
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
from medvit.settings import DEFAULT_BUNDLE

if TYPE_CHECKING:
    from medvit.segmentation import OutputSettings, Result
    from medvit.settings import RunSettings
    from medvit.tasks import SavedResult

__all__ = ["segment"]


_REASONS = 3
"""Upper limit of reasons on the terminal; statistics.json lists all."""


@dataclass(frozen=True, kw_only=True)
class _Job:
    source: str
    output: Path
    bundle: str
    types: tuple[str, ...]
    run: RunSettings
    write: OutputSettings


def segment(
    source: Annotated[
        str, typer.Argument(help="DICOM folder or zip, NIfTI, NRRD, MHA, PNG or JPEG.", show_default=False)
    ],
    output: Output,
    bundle: Annotated[
        str, typer.Option("--bundle", "-b", "--task", "-ta", help="Bundle: name or folder.")
    ] = DEFAULT_BUNDLE,
    output_type: Annotated[
        list[str] | None,
        typer.Option(
            "--output-type",
            "-ot",
            help="nifti, dicom-seg, rtstruct, sr (measurement report), sc (pictures with outlines) or png; repeatable. Default: dicom-seg and nifti for DICOM, nifti for volumes, png for pictures.",
        ),
    ] = None,
    roi_subset: Annotated[
        list[str] | None, typer.Option("--roi-subset", "-rs", help="Labels to keep, separated by commas; repeatable.")
    ] = None,
    device: Annotated[str, typer.Option("--device", "-d", help="auto, cpu, gpu, gpu:N or mps.")] = "auto",
    preview: Annotated[bool, typer.Option("--preview", "-p", help="Also write preview.png.")] = False,
    statistics: Annotated[
        bool, typer.Option("--statistics", "-s", help="Also write statistics.csv and print the table.")
    ] = False,
    fast: Annotated[
        bool,
        typer.Option(
            "--fast",
            "-f",
            help="As the bundle states it, less overlap between windows, or the first fold without mirroring: faster, less exact.",
        ),
    ] = False,
    per_label: Annotated[bool, typer.Option("--per-label", help="Also write one NIfTI for each label.")] = False,
    series: Annotated[
        str | None, typer.Option("--series", help="Number or UID of the series, if the source holds several.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Run on a modality that the bundle is not made for; recorded in run.json.")
    ] = False,
    repair_tags: RepairTags = False,
    memory_limit: MemoryLimit = None,
    threads: Threads = None,
    on_irregular: OnIrregular = "fail",
    geometry: Geometry = None,
    quality_map: Annotated[
        bool,
        typer.Option(
            "--quality-map",
            help="Also run on the mirror image and write maps/disagreement.nii.gz, where both answers differ. Takes twice the time.",
        ),
    ] = False,
    backend: Annotated[
        str,
        typer.Option(
            "--backend", help="Backend of the network: auto, eager, compiled, openvino or cuda. See medvit doctor."
        ),
    ] = "auto",
    precision: Annotated[
        str,
        typer.Option(
            "--precision", help="fp32, or bf16 or int8 if the bundle passed medvit bundles precision-check in it."
        ),
    ] = "fp32",
    roi_crop: Annotated[
        str,
        typer.Option(
            "--roi-crop",
            help="body, or a box of voxels such as 0:128,40:200,0:64. Only windows that touch it are run; the rest is background. Recorded in run.json.",
        ),
    ] = "",
    no_mirroring: Annotated[
        bool,
        typer.Option(
            "--no-mirroring", help="Leave out the bundle's averaging over mirror images: faster, less exact. Recorded."
        ),
    ] = False,
    nnunet_rounding: Annotated[
        bool,
        typer.Option(
            "--nnunet-rounding",
            help="Round like nnU-Net, to half precision: the labels of nnU-Net itself, with more memory. For imported nnU-Nets, eager backend.",
        ),
    ] = False,
    low_memory: Annotated[
        bool, typer.Option("--low-memory", help="Use as little memory as possible: the same labels, slower.")
    ] = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Label the anatomy in a scan. For research use, not for diagnosis."""
    shown = Terminal(quiet, verbose, as_json, debug)
    with handle_errors(shown):
        from medvit.segmentation import OutputSettings
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
                roi_subset=split_values(roi_subset),
                repair_tags=repair_tags,
                series=series,
                on_irregular=on_irregular,
                quality_map=quality_map,
                backend=backend,
                precision=precision,
                roi_crop=roi_crop,
                low_memory=low_memory,
                no_mirroring=no_mirroring,
                nnunet_rounding=nnunet_rounding,
                geometry=geometry,
                threads=threads,
            ),
            write=OutputSettings(preview=preview, statistics=statistics, per_label=per_label, overwrite=overwrite),
        )
        saved = _segment(job, shown)
    if saved.flagged:
        raise typer.Exit(FLAGGED)


def _segment(job: _Job, shown: Terminal) -> SavedResult:
    from dataclasses import replace

    from medvit.bundles import open_bundle
    from medvit.io import open_source
    from medvit.segmentation import SegmentationTask, check_types
    from medvit.segmentation.save import save_result
    from medvit.tasks import check_folder

    bundle = open_bundle(job.bundle)
    SegmentationTask().check(bundle, job.run)
    bundle.require_trained()
    check_folder(job.output, job.write.overwrite)
    with progress_bar(shown) as progress:
        with progress.stage("read"):
            scan = open_source(job.source, job.run.series, progress, job.run.on_irregular, job.run.geometry)
        usual = {"dicom": ("dicom-seg", "nifti"), "picture": ("png",)}.get(scan.kind, ("nifti",))
        write = replace(job.write, output_types=job.types or usual)
        check_types(write.output_types, scan.kind)
        # torch takes seconds to import, so mistakes are refused before
        from medvit.inference import never_train

        never_train()
        from medvit.pipeline import run
        from medvit.segmentation import Result

        result = run(bundle, scan, job.run, progress)
        assert isinstance(result, Result)  # a bundle for segmentation returns nothing else
        saved = save_result(result, job.output, write)
    _report(result, saved, job, shown)
    return saved


def _report(result: Result, saved: SavedResult, job: _Job, shown: Terminal) -> None:
    notes = list(dict.fromkeys((*result.notes, *saved.notes, *saved.not_written)))
    if shown.json:
        outcome = {
            "output": str(saved.folder),
            "files": saved.files,
            "quality": saved.quality,
            "notes": notes,
            "device": result.settings["device"],
            "backend": result.settings["backend"],
            "precision": result.settings["precision"],
        }
        typer.echo(json.dumps(outcome, indent=2))
    if job.write.statistics and not (shown.quiet or shown.json):
        _table(result)
    for note in saved.not_written:
        typer.echo(f"Warning: {note}", err=True)
    if saved.quality["rating"] == "poor":
        reasons = "; ".join(saved.quality["reasons"][:_REASONS])
        more = len(saved.quality["reasons"]) - _REASONS
        reasons += f"; {more} more in statistics.json" if more > 0 else ""
        typer.echo(f"Warning: implausible anatomy, quality is poor: {reasons}.", err=True)
    for note in (*result.notes, *saved.notes):
        if note not in saved.not_written:
            shown.say(f"Note: {note}")
    shown.say_seconds(result.progress)
    if shown.verbose:
        ran = result.settings
        shown.say(f"     backend  {ran['backend']}, {ran['precision']}: {ran['backend_reason']}")
    found = sum(1 for row in result.statistics() if row.voxels)
    shown.say(
        f"{found} of {len(result.requested_labels)} labels found on {result.settings['device']}; {rating_words(saved.quality)}. "
        f"{result.bundle.intended_use}."
    )
    shown.say(f"Results: {saved.folder}  ({', '.join(named_files(saved.files))})")


def _table(result: Result) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("Label", "Volume (mL)", "Mean", "Std", "At border")
    for row in result.statistics():
        volume, mean, std = (f"{v:.1f}" if v is not None else "-" for v in (row.volume_ml, row.mean, row.std))
        table.add_row(row.title, volume, mean, std, "yes" if row.touches_border else "no")
    Console().print(table)
