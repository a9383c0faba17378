"""``medvit bundles export``: export a bundle's network for other runtimes and compare both."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from medvit.cli.common import Debug, Json, Terminal, handle_errors

__all__ = ["export"]


class _Format(StrEnum):
    TORCH = "torch"
    ONNX = "onnx"
    OPENVINO = "openvino"
    CHECKPOINT = "checkpoint"


def export(
    name: Annotated[str, typer.Argument(help="Bundle: name or folder.", show_default=False)],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The file: .pt2, .onnx, .xml or .pt.", show_default=False)
    ],
    format_: Annotated[
        _Format, typer.Option("--format", help="Format of the file. MONAI's export commands read checkpoint (.pt).")
    ] = _Format.TORCH,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Export a trained bundle's network to torch.export, ONNX, OpenVINO or a checkpoint, and compare it with the original."""
    shown = Terminal(json=as_json, debug=debug)
    with handle_errors(shown):
        from medvit.bundles import open_bundle

        bundle = open_bundle(name)
        bundle.require_trained()
        from medvit.interop import export_bundle

        done = export_bundle(bundle, output, format_.value, overwrite=overwrite)
        if as_json:
            outcome = {
                "files": [str(file) for file in done.files],
                "input_shapes": [list(shape) for shape in done.shapes],
                "max_abs_difference": done.difference,
                "max_abs_value": done.scale,
            }
            typer.echo(json.dumps(outcome, indent=2))
        sizes = " and ".join(" x ".join(map(str, shape)) for shape in done.shapes)
        shown.say(
            f"Agreement with the network on an input of {sizes}: largest difference {done.difference:.2g}, largest value {done.scale:.2g}."
        )
        shown.say(f"Wrote {', '.join(str(file) for file in done.files)}. {bundle.intended_use}.")
