"""``medvit evaluate``: score a bundle on a data list, through the same pipeline as ``medvit segment`` and ``restore``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medvit.cli.common import FLAGGED, Debug, Geometry, Json, MemoryLimit, Terminal, Threads, handle_errors

if TYPE_CHECKING:
    from medvit.training.evaluation import EvaluationSet

__all__ = ["evaluate"]


def evaluate(
    bundle: Annotated[str, typer.Argument(help="Bundle: name or folder.", show_default=False)],
    data: Annotated[
        Path | None, typer.Option("--data", help="Data list (JSON); default: the bundle's own.", show_default=False)
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(
            "--root",
            help="Folder the list's paths start from; default: $MEDVIT_SHARED/data, ../shared/data or the list's own.",
        ),
    ] = None,
    split: Annotated[
        str, typer.Option("--split", help="Part of the data list, such as training or validation.")
    ] = "validation",
    device: Annotated[
        str,
        typer.Option(
            "--device", "-d", help="auto, cpu, gpu, gpu:N or mps. No other device than the one asked for is used."
        ),
    ] = "auto",
    record: Annotated[
        bool, typer.Option("--record", help="Write the scores into the bundle's metadata and card.")
    ] = False,
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate",
            help="In place of scores, find the limits of the rating on these cases. Takes twice the time.",
        ),
    ] = False,
    geometry: Geometry = None,
    as_json: Json = False,
    memory_limit: MemoryLimit = None,
    threads: Threads = None,
    debug: Debug = False,
) -> None:
    """Score a bundle on cases with reference labels or images: Dice of labels, PSNR and SSIM of restored images.

    The bundle's configs/evaluate.json states what is measured, and how.
    """
    shown = Terminal(json=as_json, debug=debug)
    with handle_errors(shown):
        from medvit.bundles import open_bundle
        from medvit.training.data import VolumeReading
        from medvit.training.evaluation import (
            QUALITY,
            SCORES,
            EvaluationSet,
            evaluate_bundle,
            place_for,
            record_scores,
            table,
        )

        opened = open_bundle(bundle)
        if record:
            place_for(
                opened, QUALITY if calibrate else SCORES
            )  # fails before the work starts if the scores cannot be stored
        if calibrate:
            part = EvaluationSet(bundle=opened, data=data, root=root, split=split, reading=VolumeReading(geometry))
            _calibrate(part, device, record, shown)
            _say_remarks(part.reading.notes, part.reading.flags, shown)
            return
        scores = evaluate_bundle(opened, data, root, split, shown.say, device, geometry=geometry)
        if as_json:
            typer.echo(json.dumps(scores, indent=2))
        shown.say(table(opened, scores))
        if record:
            record_scores(opened, scores)
        _say_remarks(scores["notes"], scores["set_aside"], shown)


def _say_remarks(notes: list[str], flags: list[str], shown: Terminal) -> None:
    """Print notes and warnings about the files; with warnings, exit with code 3."""
    for flag in flags:
        typer.echo(f"Warning: {flag}", err=True)
    for note in notes:
        shown.say(f"Note: {note}")
    if flags:
        raise typer.Exit(FLAGGED)


def _calibrate(part: EvaluationSet, device: str, record: bool, shown: Terminal) -> None:
    from medvit.training.evaluation import calibrate, evaluation_of, record_calibration

    found = calibrate(part, evaluation_of(part.bundle), shown.say, device)
    if shown.json:
        typer.echo(found.calibration.model_dump_json(indent=2))
    shown.say(found.table)
    if record:
        record_calibration(part.bundle, found)
