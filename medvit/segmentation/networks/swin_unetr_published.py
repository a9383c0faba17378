"""Conversion of published Swin UNETR checkpoints: research and model-zoo layouts, and encoders pretrained without
labels."""

from __future__ import annotations

import re
import warnings
from typing import Any

import torch
from torch import Tensor

from medvit.bundles import CheckpointTensors
from medvit.errors import CheckpointError

__all__ = ["hint", "require_merging", "translate"]

_INDEX = "relative_position_index"

_PRETEXT = re.compile(
    r"^(swinViT\.)?(rotation_head|rotation_pre|contrastive_head|contrastive_pre|convTrans3d|conv|norm|mask_token|head)\b"
)
"""Pattern of the names of heads and norms that only self-supervised pretraining uses."""


def _is_autoencoder(stored: CheckpointTensors) -> bool:
    """Return True for the encoder of a disrupted autoencoder, ``ssl_pretrained_weights.pth`` (arXiv 2307.16896)."""
    return any(name.startswith("encoder.layers1.") for name in stored)


def _is_encoder(stored: CheckpointTensors) -> bool:
    """Return True for an encoder alone or with its pretext heads (arXiv 2111.14791)."""
    whole = any(re.match(r"(encoder\d+|decoder\d+|out)\.", name) for name in stored)
    return not whole and any("layers1.0." in name for name in stored)


def require_merging(stored: CheckpointTensors, model: Any, merging: str | None) -> None:
    """Require ``merging`` for a 3-D checkpoint whose layout is known to predate MONAI 1.5.

    Raises:
        CheckpointError: ``merging`` is missing or unknown.
    """
    from medvit.segmentation.networks.swin_unetr import MERGINGS

    if merging is not None and merging not in MERGINGS:
        raise CheckpointError(f"merging={merging!r}", f"it must be one of {', '.join(MERGINGS)}", "Correct it.")
    flat = len(model.swinViT.window_size) == 2
    published = stored.wrapper in ("state_dict", "model") or _is_encoder(stored)
    if merging is None and published and not flat:
        what = f"wrapped in {stored.wrapper!r}" if stored.wrapper else "of an encoder alone"
        raise CheckpointError(
            (
                f"a Swin UNETR checkpoint {what}, a layout that was published before MONAI 1.5 changed the order of "
                "patch merging"
            ),
            "its tensors do not tell which order they were trained with, and outputs differ by 10 to 16 %",
            (
                "Give merging='merging_legacy' if it was trained with MONAI up to 1.4 (the BTCV, BraTS21 and SSL "
                "weights and zoo bundles whose metadata says a monai_version below 1.5), or merging='merging' if it was "
                "trained with 1.5 or later."
            ),
        )


def translate(state: CheckpointTensors, model: Any) -> dict[str, Tensor]:
    """Convert tensors from any published layout to a state dict of ``SwinUNETR``.

    Args:
        state: tensors by published name, unwrapped.
        model: the network; tensors that an encoder checkpoint lacks are taken from it and named in a warning.

    Returns:
        The tensors of the model's state dict.

    Raises:
        CheckpointError: index tables belong to another arrangement of windows.
    """
    wanted = model.state_dict()
    if _is_autoencoder(state):
        renamed, unused = _from_autoencoder(state)
    elif _is_encoder(state):
        renamed, unused = _from_encoder(state)
    else:
        renamed, unused = {_linear(name): value for name, value in state.items()}, []
    for name in [n for n in wanted if n.endswith(_INDEX)]:
        given = renamed.setdefault(name, wanted[name])  # files may omit it, since the window size determines it
        if given.shape == wanted[name].shape and not torch.equal(given.cpu().long(), wanted[name].cpu()):
            raise CheckpointError(
                f"{name} with other values than the window size gives",
                "the checkpoint numbers relative positions differently",
                "It cannot be used with this network.",
            )
    if _is_autoencoder(state) or _is_encoder(state):
        untouched = [
            name for name in wanted if not name.startswith("swinViT.") or re.match(r"swinViT\.layers\dc\.", name)
        ]
        renamed |= {name: wanted[name] for name in untouched if name not in renamed}
        _report(len(renamed) - len(untouched), untouched, unused)
    return renamed


def _linear(name: str) -> str:
    return name.replace(".mlp.fc1.", ".mlp.linear1.").replace(".mlp.fc2.", ".mlp.linear2.")


def _from_encoder(state: CheckpointTensors) -> tuple[dict[str, Tensor], list[str]]:
    unused = [name for name in state if _PRETEXT.match(name)]
    kept = {_linear(name): value for name, value in state.items() if name not in unused}
    return {name if name.startswith("swinViT.") else f"swinViT.{name}": value for name, value in kept.items()}, unused


def _from_autoencoder(state: CheckpointTensors) -> tuple[dict[str, Tensor], list[str]]:
    """Rename ``encoder.layersN.0.0.*`` and ``encoder.patch_embed.*``; list other names as unused."""
    unused = [n for n in state if not n.startswith("encoder.") or _PRETEXT.match(n.removeprefix("encoder."))]
    renamed = {}
    for name, value in state.items():
        if name not in unused:
            inner = re.sub(r"^(layers\d\.0\.)0\.", r"\1", name.removeprefix("encoder."))
            renamed[f"swinViT.{_linear(inner)}"] = value
    return renamed, unused


def _report(loaded: int, untouched: list[str], unused: list[str]) -> None:
    parts = sorted({name.split(".")[1 if name.startswith("swinViT.") else 0] for name in untouched})
    heads = sorted({".".join(name.split(".")[:2]) for name in unused})
    left_out = f" Not used, being of the pre-training alone: {', '.join(heads)}." if heads else ""
    warnings.warn(
        f"Loaded the encoder alone ({loaded} tensors of swinViT); {len(untouched)} tensors stay as they were: {', '.join(parts)}.{left_out} "
        "Train the network before you use it.",
        stacklevel=4,
    )


def hint(stored: CheckpointTensors) -> str:
    """Describe, from the weights' shapes, how to build the network that they need."""
    embed = next((v for n, v in stored.items() if n.endswith("patch_embed.proj.weight")), None)
    if embed is None:
        return ""
    options = [f"in_channels={embed.shape[1]}", f"feature_size={embed.shape[0]}"]
    if "out.conv.conv.bias" in stored:
        options.insert(1, f"out_channels={len(stored['out.conv.conv.bias'])}")
    if embed.ndim == 4:
        options.append("spatial_dims=2")
    options.append(f"use_v2={any('layers1c.' in name for name in stored)}")
    return f"Build SwinUNETR({', '.join(options)})."
