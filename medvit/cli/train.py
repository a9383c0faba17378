"""``medvit train``: train a bundle from a data list."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medvit.cli.common import Debug, Shown, guarded

__all__ = ["train"]


def train(
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
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for checkpoints and curves; an earlier run there is resumed.")
    ] = Path("runs"),
    steps: Annotated[int | None, typer.Option("--steps", help="Optimiser steps in all; default: the bundle's.")] = None,
    publish: Annotated[bool, typer.Option("--publish", help="Write the weights into the bundle when done.")] = False,
    debug: Debug = False,
) -> None:
    """Train a segmentation bundle; a killed run goes on where it was."""
    with guarded(Shown(debug=debug)):
        from medvit.bundles import open_bundle
        from medvit.training.trainer import TrainSettings, train_bundle

        train_bundle(open_bundle(bundle), TrainSettings(data, root, output, steps, publish))
