"""``medvit benchmark``: time Swin UNETR on each backend against MONAI, on this machine."""

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
    runs: Annotated[int, typer.Option("--runs", min=1, help="Number of pairs to time.")] = 3,
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
    """Time Swin UNETR in each backend beside MONAI's network and inferer; print ratios, pair by pair, and agreement."""
    if bool(bundle) != (case is not None):
        raise typer.BadParameter("found one of --bundle and --case; give both or neither")
    with handle_errors(Terminal(json=as_json, debug=debug)):
        import torch

        from medvit.benchmarks.networks import bundle_workload, compare, random_workload

        rows = []
        if not as_json:
            typer.echo(
                f"{'Trained weights' if bundle else 'Random weights, 14 classes'}, {torch.get_num_threads()} threads on each side; MONAI eager in fp32.\n"
            )
            typer.echo(
                "| work | MONAI | medvit | ratio (wall) | ratio (processor time) | same labels | logits, relative L2 |"
            )
            typer.echo("|---|---|---|---|---|---|---|")
        made = (
            bundle_workload(bundle, case, side, air) if case is not None else random_workload(feature_size, side, air)
        )
        for row in compare(made, runs):
            rows.append(row)
            if as_json:
                continue
            if row.refused:
                typer.echo(f"| {row.work} | - | not run: {row.refused} | | | | |")
                continue
            typer.echo(
                f"| {row.work} | {row.theirs:.2f} s | {row.ours:.2f} s | {row.ratio:.2f} | {row.ratio_cpu:.2f} | "
                f"{row.agreement:.5%} | {row.difference:.1e} |"
            )
        if as_json:
            typer.echo(json.dumps([asdict(row) for row in rows], indent=2))
