"""``medvit convert``: convert labels from one file format to another."""

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
    OnIrregular,
    Output,
    Overwrite,
    Quiet,
    RepairTags,
    Terminal,
    Verbose,
    handle_errors,
    progress_bar,
    split_values,
)

if TYPE_CHECKING:
    from medvit.conversion import Converted
    from medvit.labels import Label

__all__ = ["convert"]


def convert(
    source: Annotated[
        str, typer.Argument(help="DICOM SEG or RTSTRUCT, or a NIfTI, NRRD or MHA label map.", show_default=False)
    ],
    output: Output,
    output_type: Annotated[
        list[str] | None,
        typer.Option(
            "--output-type",
            "-ot",
            help="nifti, dicom-seg or rtstruct; repeatable. Default: nifti from SEG and RTSTRUCT, dicom-seg from label maps.",
        ),
    ] = None,
    like: Annotated[
        str | None,
        typer.Option(
            "--like",
            help="Image on whose grid to put the labels; a DICOM series for dicom-seg and rtstruct. "
            "Default: the series a SEG or RTSTRUCT names, if it lies beside it.",
            show_default=False,
        ),
    ] = None,
    series: Annotated[
        str | None, typer.Option("--series", help="Number or UID of the series, if --like holds several.")
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            "--labels",
            help="JSON file with the labels' numbers, names, colours and codes. Names in SOURCE are matched first, then numbers.",
        ),
    ] = None,
    bundle: Annotated[
        str | None, typer.Option("--bundle", "-b", "--task", "-ta", help="Bundle whose table of labels is used.")
    ] = None,
    threshold: Annotated[
        float,
        typer.Option(
            "--threshold",
            help="For a fractional SEG: the share of its maximum from which a voxel belongs to the segment.",
        ),
    ] = 0.5,
    per_label: Annotated[
        bool, typer.Option("--per-label", help="Also write one NIfTI for each label; needed if labels overlap.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Accept positions in another frame of reference as they are; recorded.")
    ] = False,
    repair_tags: RepairTags = False,
    memory_limit: MemoryLimit = None,
    on_irregular: OnIrregular = "fail",
    geometry: Geometry = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Convert labels between DICOM SEG, RTSTRUCT and NIfTI, voxel for voxel. For research use, not for diagnosis."""
    shown = Terminal(quiet, verbose, as_json, debug)
    with handle_errors(shown):
        from medvit.conversion import Writing, convert_labels
        from medvit.io.labels import ReadOptions

        reading = ReadOptions(
            like=like,
            series=series,
            threshold=threshold,
            table=_table(labels, bundle),
            force=force,
            on_irregular=on_irregular,
            geometry=geometry,
        )
        with progress_bar(shown) as progress:
            done = convert_labels(
                source, output, reading, Writing(split_values(output_type), per_label, overwrite, repair_tags), progress
            )
        _report(done, shown)
        shown.say_seconds(progress)
    if done.flags:
        raise typer.Exit(FLAGGED)


def _table(labels: Path | None, bundle: str | None) -> tuple[Label, ...]:
    from medvit.bundles import open_bundle
    from medvit.errors import SourceError
    from medvit.io.labels import read_table

    if labels is not None and bundle is not None:
        raise SourceError("both --labels and -b", "one table of labels is needed", "Leave one out.")
    if bundle is not None:
        return open_bundle(bundle).facts.labels
    return read_table(labels) if labels is not None else ()


def _report(done: Converted, shown: Terminal) -> None:
    if shown.json:
        outcome = {
            "output": str(done.folder),
            "files": done.files,
            "labels": {label.name: label.id for label in done.labels},
            "notes": [*done.notes, *done.flags],
            "flagged": bool(done.flags),
        }
        typer.echo(json.dumps(outcome, indent=2))
    for flag in done.flags:
        typer.echo(f"Warning: {flag}", err=True)
    for note in done.notes:
        shown.say(f"Note: {note}")
    shown.say(f"{len(done.labels)} label(s). For research use, not for diagnosis.")
    shown.say(f"Results: {done.folder}  ({', '.join(done.files)})")
