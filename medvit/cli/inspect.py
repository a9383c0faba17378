"""``medvit inspect``: list the volumes of a source, their irregularities, and the volume that a run would take."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medvit.cli.common import FLAGGED, Debug, Geometry, Json, MemoryLimit, Quiet, Terminal, handle_errors, progress_bar
from medvit.cli.option_words import command_line_words

if TYPE_CHECKING:
    from medvit.reports import Inspection

__all__ = ["inspect"]

_ROWS = 60
"""Upper limit of volumes in the table; ``--json`` lists all."""

_FILES = 5
"""Upper limit of damaged or unread files that are named."""


def inspect(
    source: Annotated[
        Path, typer.Argument(help="DICOM folder, file, zip or DICOMDIR, or an image file.", show_default=False)
    ],
    picture: Annotated[
        Path | None, typer.Option("--picture", help="Also draw the slice positions into this PNG.", show_default=False)
    ] = None,
    geometry: Geometry = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing picture.")] = False,
    quiet: Quiet = False,
    as_json: Json = False,
    memory_limit: MemoryLimit = None,
    debug: Debug = False,
) -> None:
    """List the volumes in a source, and slices that are missing, duplicate, tilted or wrongly tagged; exit 3 if any are."""
    shown = Terminal(quiet=quiet, json=as_json, debug=debug)
    with handle_errors(shown):
        from medvit.reports import inspect_source

        with progress_bar(shown) as progress:
            inspection = inspect_source(source, progress, geometry, command_line_words)
        if picture is not None:
            _draw(inspection, picture, overwrite)
        if as_json:
            typer.echo(json.dumps(inspection.content, indent=2))
        elif not quiet:
            _show(inspection.content)
    if inspection.flagged:
        raise typer.Exit(FLAGGED)


def _draw(inspection: Inspection, path: Path, overwrite: bool) -> None:
    from medvit.atomic_write import os_errors_as_output_errors, replace_file
    from medvit.errors import OutputError
    from medvit.reports import draw_positions

    if inspection.found is None or not any(v.stack for v in inspection.found.volumes):
        raise OutputError("no slices with positions to draw", "a DICOM volume has them", "Leave --picture out.")
    if path.exists() and not overwrite:
        raise OutputError(f"{path}", "pictures are never written over silently", "Add --overwrite.")
    volumes = inspection.found.volumes
    with os_errors_as_output_errors(path.parent), replace_file(path) as aside:
        draw_positions(aside, volumes)


def _show(content: dict[str, Any]) -> None:
    if content["kind"] != "dicom":
        for key, value in content.items():
            if key == "set_aside" and not value:
                continue
            typer.echo(f"{key.replace('_', ' ').capitalize()}: {_plain(value)}")
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    volumes = content["volumes"]
    table = Table("No.", "Kind", "Modality", "Slices", "Matrix", "Plane", "Spacing (mm)", "From .. to (mm)", "Outcome")
    for volume in volumes[:_ROWS]:
        spacing, at = volume["spacing_mm"], volume["positions_mm"]
        table.add_row(
            str(volume["number"]),
            volume["kind"] + escape(f" ({volume['part']})" if volume["part"] else ""),
            escape(volume["modality"]) or "-",
            str(volume["slices"]),
            f"{volume['rows']}x{volume['columns']}",
            volume["plane"] or "-",
            " x ".join(f"{s:.3g}" for s in spacing) if spacing else "-",
            f"{at[0]:.1f} .. {at[-1]:.1f}" if at else "-",
            volume["outcome"],
        )
    Console(width=None if typer.get_text_stream("stdout").isatty() else 160).print(table)
    if len(volumes) > _ROWS:
        typer.echo(f"and {len(volumes) - _ROWS} more volumes; --json lists them all.")
    for volume in volumes[:_ROWS]:
        for finding in volume["findings"]:
            typer.echo(f"Volume {volume['number']}: {finding['text']}")
    for item in content["damaged"][:_FILES]:
        typer.echo(f"Damaged: {item['file']} ({item['reason']})")
    for item in content["not_read"][:_FILES]:
        typer.echo(f"Not read: {item['file']} ({item['reason']})")
    _closing(content)


def _closing(content: dict[str, Any]) -> None:
    aside, run = content["set_aside"], content["run"]
    counts = [f"{count} {kind}" for kind, count in aside["objects"].items()]
    counts += [f"{aside['not_dicom']} not DICOM"] if aside["not_dicom"] else []
    counts += [f"{aside['archives']} of them archives, not opened"] if aside["archives"] else []
    counts += [f"{aside['damaged']} damaged"] if aside["damaged"] else []
    counts += [f"{count} {what}" for what, count in content["passed_over"].items()]
    others = f"; set aside: {', '.join(counts)}" if counts else ""
    typer.echo(f"{content['files']} file{'s' if content['files'] != 1 else ''} in {content['seconds']:.2f} s{others}.")
    for reason, count in Counter(item["reason"] for item in content["not_read"]).items():
        if reason not in " ".join(run["set_aside"]):
            typer.echo(f"Not read: {count} {reason}.")
    for words in run["set_aside"]:
        typer.echo(words)
    if run["volume"] is None:
        typer.echo(f"A run says: {run['reason']}")
        return
    outcome = next(v["outcome"] for v in content["volumes"] if v["number"] == run["volume"])
    verb = "refuses" if outcome == "refused" else "takes"
    typer.echo(f"A run {verb} volume {run['volume']}{'' if outcome == 'refused' else f': {outcome}'}.")


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
