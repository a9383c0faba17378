"""Quantisation of a graph's layers to int8, from ranges that a bundle ships.

A layer is a convolution or a matrix product with constant weights. It is found by the sha256 of its weights, so ranges
fit no other weights. Its input and its weights pass FakeQuantize nodes; OpenVINO computes such a layer in int8. Layers
without a range stay in fp32.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medvit.errors import BundleError
from medvit.inference.backends.openvino_library import load_openvino

__all__ = ["insert_ranges", "layers_of", "missing_instructions", "read_ranges"]

_KINDS = {"Convolution": 0, "ConvolutionBackpropData": 1, "MatMul": 0}
"""Types of the layers, each with the axis of its weights that counts output channels."""

_ACTIVATION_LEVELS, _WEIGHT_LEVELS = 256, 255

Ranges = Mapping[str, tuple[float, float]]
"""Smallest and largest input of each quantised layer, by the sha256 of its weights."""


def missing_instructions() -> str | None:
    """Return why int8 cannot be used on this processor, or None.

    Without VNNI, sums of int8 products saturate at 16 bits, so the labels of a passed precision check would not hold.
    """
    import torch

    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        return "this processor has no AVX2, and int8 needs AVX2 with VNNI; leave the precision out"
    found = torch.cpu.get_capabilities()
    if not (found.get("avx512_vnni") or found.get("avx_vnni") or found.get("amx_int8")):
        return "this processor has no VNNI, without which sums in int8 are cut off; leave the precision out"
    return None


def read_ranges(path: Path) -> dict[str, tuple[float, float]]:
    """Read a bundle's ranges, ``{"layers": {NAME: {"weights": SHA256, "low": ..., "high": ...}}}``.

    Raises:
        BundleError: there is no such file, or it is not in this form.
    """
    try:
        layers = json.loads(path.read_text())["layers"].values()
        return {str(layer["weights"]): (float(layer["low"]), float(layer["high"])) for layer in layers}
    except FileNotFoundError as error:
        raise BundleError(
            f"no {path.name}, the ranges for int8",
            "a bundle that runs in int8 has them",
            "Leave the precision out, or make them: python benchmarks/quantize.py BUNDLE.",
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(
            f"ranges for int8 in {path.name} that cannot be read ({type(error).__name__})",
            "each layer needs weights, low and high",
            "Make them again: python benchmarks/quantize.py BUNDLE.",
        ) from error


def layers_of(graph: Any) -> dict[str, Any]:
    """Return the layers of an OpenVINO graph by the sha256 of their weights."""
    found = {}
    for node in graph.get_ordered_ops():
        if node.get_type_name() in _KINDS:
            weights = node.input_value(1).get_node()
            if weights.get_type_name() == "Constant":
                found[hashlib.sha256(weights.get_data().tobytes()).hexdigest()] = node
    return found


def insert_ranges(graph: Any, ranges: Ranges) -> None:
    """Insert the nodes that quantise the layers with a range; change the graph in place.

    Raises:
        BundleError: a range belongs to a layer that the graph does not have.
    """
    ops = load_openvino().opset13

    layers = layers_of(graph)
    unknown = set(ranges) - set(layers)
    if unknown:
        raise BundleError(
            f"ranges for int8 of {len(unknown)} layer(s) that the network does not have",
            "ranges belong to one set of weights",
            "Make them again: python benchmarks/quantize.py BUNDLE.",
        )
    for digest, (low, high) in ranges.items():
        node = layers[digest]
        given, weights = node.input_value(0), node.input_value(1)
        ends = [np.float32(low), np.float32(high)] * 2
        node.input(0).replace_source_output(ops.fake_quantize(given, *ends, _ACTIVATION_LEVELS).output(0))
        largest = _largest_of_channels(weights.get_node().get_data(), _KINDS[node.get_type_name()])
        ends_of_channels = [-largest, largest] * 2
        node.input(1).replace_source_output(ops.fake_quantize(weights, *ends_of_channels, _WEIGHT_LEVELS).output(0))
    graph.validate_nodes_and_infer_types()


def _largest_of_channels(weights: Any, axis: int) -> Any:
    """Return the largest absolute weight of each output channel, in the shape of the weights with ones elsewhere."""
    others = tuple(n for n in range(weights.ndim) if n != axis)
    return np.maximum(np.abs(weights).max(others, keepdims=True), np.finfo(np.float32).tiny).astype(np.float32)
