"""Export of networks to ``torch.export``, ONNX and OpenVINO; each written file is compared with its network.

While a graph is recorded, window attention and bi-WKV use plain PyTorch operators, which every runtime has. Sizes are
fixed to those of the example, since windows, masks, padding and scans are computed for them. The format "checkpoint" is
not a graph but the network's whole state dict in float32, as MONAI's export commands need it.
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
from medvit.inference.backends import load_openvino, openvino_core

if TYPE_CHECKING:
    from medvit.bundles import Bundle

__all__ = ["SUFFIXES", "Exported", "check_target", "example_inputs", "export_bundle", "export_network"]

SUFFIXES = {"torch": ".pt2", "onnx": ".onnx", "openvino": ".xml", "checkpoint": ".pt"}
"""File suffix of each format; OpenVINO writes the weights to a .bin beside the .xml."""

_PACKAGES = ("onnx", "onnxscript", "openvino")
_NEEDS = {"torch": (), "onnx": _PACKAGES, "openvino": _PACKAGES, "checkpoint": ()}
"""Packages beside PyTorch that each format needs; OpenVINO runs an ONNX file for the comparison."""

_TOLERANCE = 1e-3
"""Largest allowed difference, as a share of the largest logit (or of 1, if all are smaller)."""


@dataclass(frozen=True)
class Exported:
    """Result of an export.

    Attributes:
        files: files written.
        shapes: shapes of the inputs, (batch, channel, *spatial) each; the graph accepts no others.
        difference: largest absolute difference between the output of the written file, read back, and of the network.
        scale: largest absolute value of the network's output, for comparison with the difference.
    """

    files: tuple[Path, ...]
    shapes: tuple[tuple[int, ...], ...]
    difference: float
    scale: float


def check_target(path: Path, kind: str, overwrite: bool = False) -> None:
    """Refuse an invalid format or name, or a missing package, before any work.

    Raises:
        ExportError: the format is unknown, the suffix is not the format's, or a package is not installed.
        OutputError: the file exists.
    """
    if kind not in SUFFIXES:
        raise ExportError(
            f"export format {kind!r}", f"it must be one of {', '.join(SUFFIXES)}", "Correct {kind}.", option="kind"
        )
    if path.suffix != SUFFIXES[kind]:
        raise ExportError(
            f"the name {path.name} for {kind}", f"it must end in {SUFFIXES[kind]}", "Correct {path}.", option="path"
        )
    absent = [name for name in _NEEDS[kind] if find_spec(name) is None]
    if absent:
        raise ExportError(
            f"no package {' or '.join(absent)}, which export to {kind} needs",
            remedy="Install it: pip install openvino."
            if absent == ["openvino"]
            else "Install the extra: pip install 'medvit[onnx]'.",
        )
    taken = [
        file for file in (path, path.with_suffix(".bin")) if file.exists() and (kind == "openvino" or file == path)
    ]
    if taken and not overwrite:
        raise OutputError(
            f"{taken[0].name} in place",
            "files are never written over silently",
            "Add {overwrite=True} or choose another name.",
            option="overwrite",
        )


def export_network(
    network: nn.Module, example: Sequence[Tensor], path: str | os.PathLike[str], kind: str, *, overwrite: bool = False
) -> Exported:
    """Write a network for inputs of the example's size, read the file back and compare.

    Args:
        network: one of medvit's networks, on the CPU; its training mode is restored afterwards.
        example: its inputs, (batch, channel, *spatial) float32 each, of the size used later.
        path: the file; ends in .pt2, .onnx, .xml or .pt.
        kind: "torch", "onnx", "openvino" or "checkpoint".
        overwrite: replace an existing file.

    Raises:
        ExportError: see ``check_target``; also if the graph cannot be recorded, or computes other values (nothing is
            written).
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
            for file in files:  # the requested file is moved last, after its companions
                os.replace(file, final.parent / file.name)
    finally:
        network.train(training)
    shapes = tuple(tuple(x.shape) for x in inputs)
    return Exported(tuple(final.parent / file.name for file in files), shapes, difference, scale)


def example_inputs(bundle: Bundle) -> tuple[Tensor, ...]:
    """Make random inputs of the size and range in a bundle's metadata, one for each input of the network."""
    generator = torch.Generator().manual_seed(0)
    inputs = []
    for stated in bundle.metadata["network_data_format"]["inputs"].values():
        low, high = (float(v) for v in stated.get("value_range") or (0, 1))
        values = torch.rand(1, stated["num_channels"], *stated["spatial_shape"], generator=generator)
        inputs.append(values * (high - low) + low)
    return tuple(inputs)


def export_bundle(bundle: Bundle, path: str | os.PathLike[str], kind: str, *, overwrite: bool = False) -> Exported:
    """Write a trained bundle's network for inputs of the size in its metadata.

    Args, errors and result as for ``export_network``; pre- and postprocessing are not part of the graph.

    Raises:
        BundleError: the bundle is not trained.
        ChecksumError: its weights differ from the recorded hash.
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
            "its forward must not branch on tensor values",
            "Export one of medvit's networks, or report this.",
        ) from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it contains paths of this machine
    return program


def _write_torch(network: nn.Module, inputs: tuple[Tensor, ...], path: Path) -> None:
    torch.export.save(_recorded(network, inputs), path)


def _write_onnx(network: nn.Module, inputs: tuple[Tensor, ...], path: Path) -> None:
    # the exporter warns about each operator of torchvision, which medvit does not use
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    program = _recorded(network, inputs)
    options: dict[str, Any] = {"opset_version": 20, "external_data": False, "verbose": False}
    torch.onnx.export(program, inputs, str(path), dynamo=True, **options)


def _write_openvino(network: nn.Module, inputs: tuple[Tensor, ...], path: Path) -> None:
    openvino = load_openvino()
    onnx = path.with_suffix(".onnx")
    _write_onnx(network, inputs, onnx)  # by way of ONNX, since OpenVINO's tracer fails on the reshapes of windows
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
    # without the hint, OpenVINO computes in bf16 on processors that support it
    compiled = openvino_core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    results = compiled([x.numpy() for x in inputs])
    return [torch.from_numpy(results[output]) for output in compiled.outputs]


def _run_checkpoint(network: nn.Module, inputs: tuple[Tensor, ...], path: Path) -> list[Tensor]:
    other = copy.deepcopy(network)
    for value in other.state_dict().values():
        value.zero_()  # so that a tensor missing in the file is noticed
    other.load_state_dict(torch.load(path, weights_only=True))
    return _flat(other(*inputs))


_PATHS: dict[str, tuple[Callable[..., None], Callable[..., list[Tensor]]]] = {
    "torch": (_write_torch, _run_torch),
    "onnx": (_write_onnx, _run_openvino),
    "openvino": (_write_openvino, _run_openvino),
    "checkpoint": (_write_checkpoint, _run_checkpoint),
}
"""Functions that write each format, and that run the written file for the comparison."""


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
