"""Networks in exchange formats: ``torch.export``, ONNX and OpenVINO, each checked against the network it came from.

While a graph is recorded, window attention and bi-WKV take paths of PyTorch's own operators, which every runtime has.
Sizes are fixed to those of the example: windows, masks, padding and sweeps are worked out for them. A checkpoint is no
graph but the network's whole state dict in float32, as MONAI's own export commands ask for it.
"""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from medvit.atomic_write import os_errors_as_output_errors, staging_folder
from medvit.errors import ExportError, OutputError

if TYPE_CHECKING:
    from medvit.bundles import Bundle

__all__ = ["SUFFIXES", "Exported", "check_target", "example_inputs", "export_bundle", "export_network"]

SUFFIXES = {"torch": ".pt2", "onnx": ".onnx", "openvino": ".xml", "checkpoint": ".pt"}
"""Formats, and how their files end; OpenVINO puts the numbers into a .bin beside the .xml."""

_EXTRA = ("onnx", "onnxscript", "openvino")
_NEEDS = {"torch": (), "onnx": _EXTRA, "openvino": _EXTRA, "checkpoint": ()}
"""Packages of the extra; OpenVINO is what runs an ONNX file for the check."""

_TOLERANCE = 1e-3
"""Largest difference allowed, as a share of the largest logit (or of 1, where all are smaller)."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        files: the files.
        shapes: of the inputs, (batch, channel, *spatial) each; the graph takes no others.
        difference: largest absolute difference between the written graph, read back, and the network.
        scale: largest absolute value of the network's output, to judge the difference by.
    """

    files: tuple[Path, ...]
    shapes: tuple[tuple[int, ...], ...]
    difference: float
    scale: float


def check_target(path: Path, kind: str, overwrite: bool = False) -> None:
    """Refuse a format, name or missing package before any work is done.

    Raises:
        ExportError: an unknown format, another suffix than its own, or a package that is not installed.
        OutputError: the file exists.
    """
    if kind not in SUFFIXES:
        raise ExportError(f"export format {kind!r}", f"it must be one of {', '.join(SUFFIXES)}", "Correct --format.")
    if path.suffix != SUFFIXES[kind]:
        raise ExportError(f"the name {path.name} for {kind}", f"it must end in {SUFFIXES[kind]}", "Correct -o.")
    absent = [name for name in _NEEDS[kind] if find_spec(name) is None]
    if absent:
        raise ExportError(
            f"no package {' or '.join(absent)}, which export to {kind} needs",
            remedy="Install the extra: pip install 'medvit[openvino]'.",
        )
    taken = [
        file for file in (path, path.with_suffix(".bin")) if file.exists() and (kind == "openvino" or file == path)
    ]
    if taken and not overwrite:
        raise OutputError(
            f"{taken[0].name} in place",
            "files are never written over silently",
            "Add --overwrite or choose another name.",
        )


def export_network(
    network: nn.Module, example: Sequence[Tensor], path: str | os.PathLike[str], kind: str, *, overwrite: bool = False
) -> Exported:
    """Write a network for inputs of the example's size, read it back and compare.

    Args:
        network: any of medvit's networks, on the CPU; its mode is put back in the end.
        example: its inputs, (batch, channel, *spatial) float32 each, as large as in use.
        path: the file; ends in .pt2, .onnx, .xml or .pt.
        kind: "torch", "onnx", "openvino" or "checkpoint".
        overwrite: replace an existing file.

    Raises:
        ExportError: see ``check_target``; the graph cannot be recorded, or answers differently (nothing is written).
        OutputError: the file exists or its folder cannot be written.
    """
    final = Path(path)
    check_target(final, kind, overwrite)
    inputs, training = tuple(example), network.training
    write, read = _PATHS[kind]
    final.parent.mkdir(parents=True, exist_ok=True)
    network.eval()
    try:
        with os_errors_as_output_errors(final.parent), staging_folder(final.parent) as staging, torch.inference_mode():
            wanted = _flat(network(*inputs))
            written = staging / final.name
            write(network, inputs, written)
            difference, scale = _compare(read(network, inputs, written), wanted)
            files = sorted(staging.iterdir(), key=lambda p: p == written)
            for file in files:  # the file that was asked for comes last
                os.replace(file, final.parent / file.name)
    finally:
        network.train(training)
    shapes = tuple(tuple(x.shape) for x in inputs)
    return Exported(tuple(final.parent / file.name for file in files), shapes, difference, scale)


def example_inputs(bundle: Bundle) -> tuple[Tensor, ...]:
    """Random inputs of the size and range that a bundle's metadata states, one for each of the network's inputs."""
    generator = torch.Generator().manual_seed(0)
    inputs = []
    for stated in bundle.metadata["network_data_format"]["inputs"].values():
        low, high = (float(v) for v in stated.get("value_range") or (0, 1))
        values = torch.rand(1, stated["num_channels"], *stated["spatial_shape"], generator=generator)
        inputs.append(values * (high - low) + low)
    return tuple(inputs)


def export_bundle(bundle: Bundle, path: str | os.PathLike[str], kind: str, *, overwrite: bool = False) -> Exported:
    """Write a trained bundle's network for inputs of the size that its metadata states.

    Args, errors and result as ``export_network``; pre- and postprocessing are not part of the graph.

    Raises:
        BundleError: the bundle is not trained. ChecksumError: its weights are others.
    """
    check_target(Path(path), kind, overwrite)
    bundle.require_trained()
    from medvit.inference import load_model

    return export_network(load_model(bundle, "cpu").network, example_inputs(bundle), path, kind, overwrite=overwrite)


def _recorded(network: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    try:
        program = torch.export.export(network, inputs, strict=False)
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ExportError(
            f"a {type(network).__name__} that torch.export cannot record ({first})",
            "its forward must not depend on values",
            "Export one of medvit's networks, or report this.",
        ) from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # names folders of the machine that exported
    return program


def _write_torch(network: nn.Module, inputs: tuple[Tensor, ...], path: Path) -> None:
    torch.export.save(_recorded(network, inputs), path)


def _write_onnx(network: nn.Module, inputs: tuple[Tensor, ...], path: Path) -> None:
    # it warns once for each operator of torchvision, which nothing here uses
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    program = _recorded(network, inputs)
    options: dict[str, Any] = {"opset_version": 20, "external_data": False, "verbose": False}
    torch.onnx.export(program, inputs, str(path), dynamo=True, **options)


def _write_openvino(network: nn.Module, inputs: tuple[Tensor, ...], path: Path) -> None:
    import openvino

    onnx = path.with_suffix(".onnx")
    _write_onnx(network, inputs, onnx)  # OpenVINO's own tracer stumbles over the windows' reshapes
    try:
        graph = openvino.convert_model(str(onnx))
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ExportError(
            f"a network that OpenVINO cannot take ({first})",
            "a graph of operators it knows is needed",
            "Export to onnx, or install another version of OpenVINO.",
        ) from error
    openvino.save_model(graph, str(path), compress_to_fp16=False)
    onnx.unlink()


def _write_checkpoint(network: nn.Module, inputs: tuple[Tensor, ...], path: Path) -> None:
    torch.save({name: value.clone() for name, value in network.state_dict().items()}, path)


def _run_torch(network: nn.Module, inputs: tuple[Tensor, ...], path: Path) -> list[Tensor]:
    return _flat(torch.export.load(path).module()(*inputs))


def _run_openvino(network: nn.Module, inputs: tuple[Tensor, ...], path: Path) -> list[Tensor]:
    import openvino

    # processors with bf16 would otherwise take it unasked
    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    results = compiled([x.numpy() for x in inputs])
    return [torch.from_numpy(results[output]) for output in compiled.outputs]


def _run_checkpoint(network: nn.Module, inputs: tuple[Tensor, ...], path: Path) -> list[Tensor]:
    other = copy.deepcopy(network)
    for value in other.state_dict().values():
        value.zero_()  # nothing of the network may stand in for what the file lacks
    other.load_state_dict(torch.load(path, weights_only=True))
    return _flat(other(*inputs))


_PATHS: dict[str, tuple[Callable[..., None], Callable[..., list[Tensor]]]] = {
    "torch": (_write_torch, _run_torch),
    "onnx": (_write_onnx, _run_openvino),
    "openvino": (_write_openvino, _run_openvino),
    "checkpoint": (_write_checkpoint, _run_checkpoint),
}
"""How each format is written, and how the written file is run for the check."""


def _flat(output: Any) -> list[Tensor]:
    return [output] if isinstance(output, Tensor) else list(output)


def _compare(found: list[Tensor], wanted: list[Tensor]) -> tuple[float, float]:
    if [tuple(x.shape) for x in found] != [tuple(x.shape) for x in wanted]:
        raise ExportError(
            (
                f"outputs of {[tuple(x.shape) for x in found]} from the written graph, not "
                f"{[tuple(x.shape) for x in wanted]}"
            ),
            "nothing was written",
            "Report this.",
        )
    difference = max(float((a - b).abs().max()) for a, b in zip(found, wanted, strict=True))
    scale = max(float(x.abs().max()) for x in wanted)
    if not difference <= _TOLERANCE * max(1.0, scale):
        raise ExportError(
            f"a written graph that differs from the network by up to {difference:.2g} (largest value {scale:.2g})",
            f"at most {_TOLERANCE:g} of it is allowed, so nothing was written",
            "Choose another format and report this.",
        )
    return difference, scale
