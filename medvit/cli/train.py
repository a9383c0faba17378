"""``medvit train``: train a bundle from a data list."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medvit.cli.common import FLAGGED, Debug, Geometry, MemoryLimit, Terminal, Threads, handle_errors

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
        Path,
        typer.Option("--output", "-o", help="Folder for checkpoints and curves. An earlier run in it is continued."),
    ] = Path("runs"),
    recipe: Annotated[
        str, typer.Option("--recipe", help="Name of the training config, configs/NAME.json in the bundle.")
    ] = "train",
    start: Annotated[
        str | None,
        typer.Option("--from", help="Weights to start from: a checkpoint or a bundle's name.", show_default=False),
    ] = None,
    adapters: Annotated[
        int | None,
        typer.Option(
            "--adapters",
            metavar="RANK",
            help="With --from: train adapters of this rank, such as 8, in place of all weights, and merge them at the end.",
            show_default=False,
        ),
    ] = None,
    only_adapters: Annotated[
        bool, typer.Option("--only-adapters", help="With --adapters: also freeze norms and the last layer.")
    ] = False,
    compare: Annotated[
        bool,
        typer.Option("--compare/--no-compare", help="With --from: score the validation cases before and after."),
    ] = True,
    steps: Annotated[
        int | None,
        typer.Option("--steps", help="Optimiser steps in total. Default: those of the bundle.", show_default=False),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed",
            help="Of samples and what is drawn anew; default: the bundle's. With --from, one that its weights were not trained with: "
            "new samples.",
            show_default=False,
            min=0,
        ),
    ] = None,
    device: Annotated[str, typer.Option("--device", "-d", help="auto, cpu, gpu, gpu:N or mps.")] = "auto",
    precision: Annotated[
        str, typer.Option("--precision", help="fp32, or mixed precision on a GPU: bf16 or fp16.")
    ] = "fp32",
    workers: Annotated[int, typer.Option("--workers", help="Processes that prepare samples.", min=0)] = 0,
    publish: Annotated[bool, typer.Option("--publish", help="Write the weights into the bundle at the end.")] = False,
    geometry: Geometry = None,
    memory_limit: MemoryLimit = None,
    threads: Threads = None,
    debug: Debug = False,
) -> None:
    """Train a bundle. The same command continues a run that was killed.

    On several GPUs: torchrun --nproc_per_node N -m medvit train BUNDLE.
    """
    with handle_errors(Terminal(debug=debug)):
        from medvit.bundles import open_bundle
        from medvit.errors import BundleError
        from medvit.training import TrainSettings, train_bundle
        from medvit.training.data import DataList, VolumeReading
        from medvit.training.loop import AdapterSettings

        opened = open_bundle(bundle)
        images = DataList(data, root, reading=VolumeReading(geometry))
        if only_adapters and adapters is None:
            raise BundleError("--only-adapters without --adapters", "their rank is needed", "Add --adapters 8.")
        few = None if adapters is None else AdapterSettings(adapters, not only_adapters)
        settings = TrainSettings(
            data=images,
            output=output,
            steps=steps,
            publish=publish,
            recipe=recipe,
            start=start,
            device=device,
            precision=precision,
            workers=workers,
            adapters=few,
            compare=compare and start is not None,
            seed=seed,
        )
        train_bundle(opened, settings)
    if images.reading.flags:
        raise typer.Exit(FLAGGED)
