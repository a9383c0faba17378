"""Conversion of Barlow-Swin's Keras weights from layer paths to this package's names.

Keras numbers layers over a whole session (``dense_1`` or ``dense_57``), so layers are identified by kind and order, not
by number. Dense kernels are (in, out), convolutions (height, width, in, out).
"""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

from medvit.bundles import CheckpointTensors
from medvit.errors import CheckpointError

__all__ = ["hint", "translate"]

_NORM = {"gamma": "weight", "beta": "bias"}
_BATCH_NORM = {**_NORM, "moving_mean": "running_mean", "moving_variance": "running_var"}
_TABLE = "relative_position_bias_table"


def translate(state: CheckpointTensors, model: Any) -> dict[str, Tensor]:
    """Convert a mapping of Keras layer path to array to a state dict of ``BarlowSwin``.

    A state dict with this package's own names is returned unchanged.

    Raises:
        CheckpointError: the relative-position tables are missing, which Keras does not save.
    """
    if not any("/" in name for name in state):
        return dict(state)
    paths = _Paths(state)
    out: dict[str, Tensor] = {}
    _embedding(paths, model, out)
    stages = [(s, b) for s, stage in enumerate(model.encoder.stages) for b in range(len(stage))]
    blocks = paths.layers("swin_transformer_block")
    for place, block in zip(stages, blocks, strict=False):
        _block(paths, block, f"encoder.stages.{place[0]}.{place[1]}", out)
    for number, layer in enumerate(paths.layers("patch_merging")):
        (dense,) = paths.layers("dense", layer)[:1] or ("",)
        out |= paths.take(dense, f"encoder.merges.{number}.reduction", {"kernel": "weight"})
    _decoder(paths, out)
    out |= {f"unexpected:{name}": value for name, value in paths.left.items()}
    counters = {k: v for k, v in model.state_dict().items() if k.endswith("num_batches_tracked")}
    tables = [k for k in model.state_dict() if k.endswith(_TABLE) and k not in out]
    if tables and not any(name.endswith(_TABLE) for name in state):
        raise CheckpointError(
            f"Keras weights without {len(tables)} of the relative-position tables",
            "each block needs its own, and Keras does not save them (they are not among model.weights)",
            (
                "Add them as '<block>/window_attention/relative_position_bias_table' from the running model, or add "
                "zeros of (49, heads) and train on."
            ),
        )
    return {k.removeprefix("unexpected:"): v for k, v in out.items()} | counters


class _Paths:
    """Arrays by layer path; each is taken out once."""

    def __init__(self, state: CheckpointTensors) -> None:
        self.left = dict(state)

    def layers(self, kind: str, inside: str = "") -> list[str]:
        """List the paths of the layers of a kind directly inside another, in the order in which Keras made them."""
        start = f"{inside}/" if inside else ""
        pattern = re.compile(rf"^{re.escape(start)}({kind}(?:_(\d+))?)/")
        found = {m[1]: int(m[2] or 0) for m in map(pattern.match, self.left) if m}
        return [start + name for name in sorted(found, key=lambda name: found[name])]

    def take(self, layer: str, name: str, parts: dict[str, str]) -> dict[str, Tensor]:
        """Take a layer's arrays out under new names, with axes in PyTorch's order."""
        taken = {}
        for theirs, ours in parts.items():
            value = self.left.pop(f"{layer}/{theirs}", None)
            if value is not None:
                taken[f"{name}.{ours}"] = _axes(value, theirs)
        return taken


def _axes(value: Tensor, part: str) -> Tensor:
    if part == "depthwise_kernel":
        return value.permute(2, 3, 0, 1)
    if value.ndim == 4:
        return value.permute(3, 2, 0, 1)
    return value.T if part == "kernel" else value


def _embedding(paths: _Paths, model: Any, out: dict[str, Tensor]) -> None:
    for layer in paths.layers("linear_embedding"):
        for dense in paths.layers("dense", layer):
            out |= paths.take(dense, "encoder.embed", {"kernel": "weight", "bias": "bias"})
        for table in paths.layers("embedding", layer):
            out |= paths.take(table, "encoder", {"embeddings": "positions"})
    weight, wanted = out.get("encoder.embed.weight"), model.encoder.embed.weight
    if weight is not None and weight.ndim == 2 and weight.numel() % (wanted.shape[2] * wanted.shape[3]) == 0:
        # patch vectors are row, column, channel
        by_place = weight.reshape(len(weight), wanted.shape[2], wanted.shape[3], -1)
        out["encoder.embed.weight"] = by_place.permute(0, 3, 1, 2)


def _block(paths: _Paths, block: str, name: str, out: dict[str, Tensor]) -> None:
    for number, norm in enumerate(paths.layers("layer_normalization", block), 1):
        out |= paths.take(norm, f"{name}.norm{number}", _NORM)
    for attention in paths.layers("window_attention", block):
        for part, dense in zip(("qkv", "proj"), paths.layers("dense", attention), strict=False):
            out |= paths.take(dense, f"{name}.{part}", {"kernel": "weight", "bias": "bias"})
        out |= paths.take(attention, name, {_TABLE: _TABLE})
    for mlp in paths.layers("mlp", block):
        for place, dense in zip((0, 2), paths.layers("dense", mlp), strict=False):
            out |= paths.take(dense, f"{name}.mlp.{place}", {"kernel": "weight", "bias": "bias"})


def _decoder(paths: _Paths, out: dict[str, Tensor]) -> None:
    """Convert the decoder: each stage has two separable and one plain convolution, each with a norm; the head has one
    convolution and a norm."""
    for number, layer in enumerate(paths.layers("separable_conv2d")):
        name = f"decoder.{number // 2}.body.{3 * (number % 2)}"
        out |= paths.take(
            layer, name, {"depthwise_kernel": "0.weight", "pointwise_kernel": "1.weight", "bias": "1.bias"}
        )
    plain = paths.layers("conv2d")
    for number, layer in enumerate(plain):
        name = "head.0" if number == len(plain) - 1 else f"decoder.{number}.shortcut.0"
        out |= paths.take(layer, name, {"kernel": "weight", "bias": "bias"})
    norms = paths.layers("batch_normalization")
    for number, layer in enumerate(norms):
        name = f"decoder.{number // 3}.{('body.1', 'body.4', 'shortcut.1')[number % 3]}"
        out |= paths.take(layer, "head.1" if number == len(norms) - 1 else name, _BATCH_NORM)


def hint(stored: CheckpointTensors) -> str:
    """Describe, from the weights' shapes, how to build the network that they need."""
    embed = next((v for n, v in stored.items() if re.match(r"linear_embedding(_\d+)?/dense(_\d+)?/kernel$", n)), None)
    if embed is None:
        return ""
    tables = [v for n, v in stored.items() if n.endswith(_TABLE)]
    heads = f", num_heads={tables[0].shape[1]}" if tables else ""
    return f"Build BarlowSwin(in_channels={embed.shape[0] // 16}, embed_dim={embed.shape[1]}{heads}) with the head's out_channels."
