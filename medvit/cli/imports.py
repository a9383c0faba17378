"""``medvit bundles import``: turn models of other programs into bundles of the user's store."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medvit.cli.common import Debug, Json, Terminal, handle_errors, progress_bar, split_values

if TYPE_CHECKING:
    from medvit.interop.nnunet import Imported

__all__ = ["app"]

app = typer.Typer(help="Import a model of another program as a bundle.", no_args_is_help=True)


class _Checkpoint(StrEnum):
    FINAL = "final"
    BEST = "best"


@app.callback()
def _import() -> None:
    """Import a model of another program as a bundle."""


@app.command()
def nnunet(
    source: Annotated[
        Path, typer.Argument(help="Folder or zip of a trained nnU-Net v2.", metavar="FOLDER|ZIP", show_default=False)
    ],
    configuration: Annotated[
        str | None,
        typer.Option("--configuration", help="Configuration, if there are several: 2d, 3d_fullres, 3d_lowres."),
    ] = None,
    folds: Annotated[
        list[str] | None,
        typer.Option("--folds", help="Folds, such as 0,2 or all. Default: every numbered fold that is there."),
    ] = None,
    checkpoint: Annotated[
        _Checkpoint | None,
        typer.Option("--checkpoint", help="final or best. Default: final, or best where there is no final one."),
    ] = None,
    modality: Annotated[
        str | None,
        typer.Option("--modality", help="DICOM modality such as CT. Default: by the names of the channels."),
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option("--labels", help="JSON file with names, titles, colours and codes of labels, by label id."),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the bundle. Default: dataset and configuration.")
    ] = None,
    licence: Annotated[
        str | None, typer.Option("--licence", help="Licence of the weights. Default: as dataset.json states it.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an imported bundle of the same name.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Import a trained nnU-Net v2 as a bundle, which then runs by its name. Nothing in its files is executed."""
    shown = Terminal(json=as_json, debug=debug)
    with handle_errors(shown):
        from medvit.interop.nnunet import ImportRequest, import_nnunet

        request = ImportRequest(
            source=source,
            configuration=configuration,
            folds=split_values(folds),
            checkpoint=None if checkpoint is None else checkpoint.value,
            modality=modality,
            table=table,
            name=name,
            licence=licence,
            overwrite=overwrite,
        )
        with progress_bar(shown) as progress:
            made = import_nnunet(request, progress)
        _report(made, shown)


def _report(made: Imported, shown: Terminal) -> None:
    facts = made.bundle.facts
    row: dict[str, Any] = {
        "name": made.bundle.name,
        "labels": [label.name for label in facts.labels],
        "folds": list(made.folds),
        "mirror_axes": list(made.mirror_axes),
        "modalities": list(facts.modalities),
        "size_mb": round(made.size / 1e6, 1),
        "licence": facts.licence,
        "seconds_per_window": round(made.seconds_per_window, 3),
        "sha256": made.bundle.weights_sha256,
        "notes": list(made.notes),
    }
    if shown.json:
        typer.echo(json.dumps(row, indent=2))
        return
    names = [label.name for label in facts.labels]
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    runs = 2 ** len(made.mirror_axes) if made.mirror_axes else 1
    shown.say(f"Name: {made.bundle.name}")
    shown.say(f"Labels: {len(names)} ({', '.join(names[:12])}{more})")
    shown.say(f"Folds: {', '.join(made.folds)}")
    shown.say(f"Mirroring: {f'{runs} runs for each window' if made.mirror_axes else 'none'}")
    shown.say(f"Modality: {' or '.join(facts.modalities) or 'not known'}")
    shown.say(f"Size: {row['size_mb']} MB")
    shown.say(f"Licence: {facts.licence}")
    shown.say(f"Time: {made.seconds_per_window:.2f} s for one window of one fold here, without mirroring")
    for note in made.notes:
        shown.say(f"Note: {note}")
    shown.say(f"Run it: medvit segment SCAN -b {made.bundle.name} -o OUT")
