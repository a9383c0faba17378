"""``medvit benchmark``: time Swin UNETR on each backend against MONAI in PyTorch, OpenVINO and ONNX Runtime, on this
machine."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from medvit.cli.common import Debug, Json, Terminal, Threads, handle_errors

__all__ = ["benchmark"]


def benchmark(
    feature_size: Annotated[
        int, typer.Option("--feature-size", min=12, help="Feature size of the network: 12, 24 or 48.")
    ] = 12,
    side: Annotated[int, typer.Option("--side", min=32, help="Side of the window in voxels; a multiple of 32.")] = 96,
    runs: Annotated[
        int, typer.Option("--runs", min=1, help="Number of rounds to time; every way runs once in each.")
    ] = 3,
    bundle: Annotated[
        str,
        typer.Option("--bundle", "-b", help="Time this trained bundle beside its MONAI twin, on the scan of --case."),
    ] = "",
    case: Annotated[Path | None, typer.Option("--case", help="A scan for --bundle.")] = None,
    air: Annotated[bool, typer.Option("--air", help="Use an image that is mostly air, as around a patient.")] = False,
    threads: Threads = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Time Swin UNETR in each backend beside MONAI's network and inferer, in PyTorch, OpenVINO and ONNX Runtime; print
    ratios with the agreement, and which part of them is the runtime, the network's form and the engine."""
    if bool(bundle) != (case is not None):
        raise typer.BadParameter("found one of --bundle and --case; give both or neither")
    with handle_errors(Terminal(json=as_json, debug=debug)):
        from medvit.benchmarks import bundle_workload, compare, random_workload, table

        work = (
            bundle_workload(bundle, case, side, air) if case is not None else random_workload(feature_size, side, air)
        )
        if as_json:
            typer.echo(json.dumps([asdict(row) for row in compare(work, runs)], indent=2))
            return
        for line in table(work, compare(work, runs)):
            typer.echo(line)
