"""Strict loading of published weights: every tensor is used, or named in the error message."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

from medvit.bundles import CheckpointTensors, extract_tensors, read_checkpoint
from medvit.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["load_published"]

Network = TypeVar("Network", bound="nn.Module")

_TRANSLATORS = {
    "SwinUNETR": "medvit.segmentation.networks.swin_unetr_published",
    "BarlowSwin": "medvit.segmentation.networks.barlow_swin_published",
    "RestoreRWKV": "medvit.restoration.networks.restore_rwkv_published",
    "SwinX2S": "medvit.reconstruction.networks.swin_x2s_published",
}
"""Module with each network's ``translate(state, model) -> dict[str, Tensor]``, imported when first needed."""

_TRAITS = (
    # network, and a part of a tensor name that no network further down has
    ("RestoreRWKV", ".att.spatial_decay"),
    ("SwinX2S", "expand_."),
    ("BarlowSwin", "linear_embedding"),
    ("BarlowSwin", "swin_transformer_block"),
    ("BarlowSwin", "encoder.positions"),
    ("SwinUNETR", "swinViT."),
    ("SwinUNETR", "layers1.0."),
)


def load_published(
    model: Network, path_or_state_dict: str | os.PathLike[str] | Mapping[str, Any], merging: str | None = None
) -> Network:
    """Load published weights into one of medvit's networks, in place.

    Layouts: Swin UNETR's research checkpoints (``state_dict``), its zoo bundles (``model``), its self-supervised
    encoders (``module.`` names, or ``encoder.*`` under ``model``), plain state dicts; Restore-RWKV old and new;
    Swin-X2S; Barlow-Swin as a mapping from Keras layer path to array. Files: safetensors, .npz, and PyTorch files,
    which are read with ``weights_only=True``.

    Args:
        model: ``SwinUNETR``, ``BarlowSwin``, ``RestoreRWKV`` or ``SwinX2S``, built as the weights need it.
        path_or_state_dict: a file, or its content.
        merging: for Swin UNETR, the order of patch merging in training: "merging" (MONAI >= 1.5), "mergingv2" or
            "merging_legacy" (MONAI <= 1.4). It cannot be read from the tensors. It is set on the model.

    Returns:
        The model. If an error is raised, it is unchanged.

    Raises:
        CheckpointError: the file cannot be read, belongs to another network, does not match, or needs ``merging``.

    Examples:
        >>> import medvit
        >>> from medvit.segmentation import BarlowSwin
        >>> network = BarlowSwin(embed_dim=8, depths=(1, 1, 1), num_heads=2, image_size=(64, 64))
        >>> medvit.load_published(network, network.state_dict()) is network
        True
    """
    kind = _kind(model)
    if merging is not None and kind != "SwinUNETR":
        raise CheckpointError(
            f"merging={merging!r} for a {kind}", "only Swin UNETR has variants of patch merging", "Leave it out."
        )
    content = path_or_state_dict if isinstance(path_or_state_dict, Mapping) else read_checkpoint(path_or_state_dict)
    stored = extract_tensors(content)
    _require_kind(stored, kind)
    translator = import_module(_TRANSLATORS[kind])
    if hasattr(translator, "require_merging"):
        translator.require_merging(stored, model, merging)
    translated = translator.translate(stored, model)
    hint = translator.hint(stored) if hasattr(translator, "hint") else ""
    _load(model, translated, hint)
    if merging is not None:
        model.merging = merging  # type: ignore[assignment]
    return model


def _kind(model: nn.Module) -> str:
    # by name, so that no other network's module is imported; MONAI's SwinUNETR has the same name, but is not accepted
    for base in type(model).__mro__:
        if base.__name__ in _TRANSLATORS and base.__module__.startswith("medvit."):
            return base.__name__
    home = type(model).__module__.partition(".")[0]
    raise CheckpointError(
        f"{home}'s {type(model).__name__} to load into",
        f"one of medvit's {', '.join(_TRANSLATORS)} is needed",
        "Use load_state_dict for others.",
    )


def _require_kind(stored: CheckpointTensors, kind: str) -> None:
    """Refuse another network's weights by tensor names; unknown names are left to the strict comparison."""
    looks = [who for who, trait in _TRAITS if any(trait in name for name in stored)]
    if looks and looks[0] != kind:  # only the first match, since Swin-X2S also has names of Swin UNETR
        raise CheckpointError(
            f"weights that look like {looks[0]}'s ({len(stored)} tensors, the first is {next(iter(stored))})",
            f"{kind}'s are needed",
            f"Give the right file, or build a {looks[0]}.",
        )


def _load(model: nn.Module, state: dict[str, Tensor], hint: str) -> None:
    wanted = model.state_dict()
    missing, unexpected = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    if missing or unexpected:
        parts = [
            f"{len(names)} {word} ({_some(names)})"
            for word, names in (("missing", missing), ("unexpected", unexpected))
            if names
        ]
        raise CheckpointError(
            f"a checkpoint with {' and '.join(parts)} tensors",
            f"it must hold exactly the {len(wanted)} of this {type(model).__name__}",
            hint or "Build the network as the weights need it.",
        )
    adopts: frozenset[str] = getattr(model, "adopts", frozenset())
    wrong = [
        f"{name} is {tuple(state[name].shape)}, not {tuple(here.shape)}"
        for name, here in wanted.items()
        if state[name].shape != here.shape and not (name in adopts and state[name].shape[1:] == here.shape[1:])
    ]
    if wrong:
        raise CheckpointError(
            f"{len(wrong)} tensors of other sizes than this {type(model).__name__}'s ({_some(wrong, '; ')})",
            "all sizes must be equal",
            hint or "Build the network as the weights need it.",
        )
    model.load_state_dict({name: state[name].to(here.dtype) for name, here in wanted.items()})


def _some(names: list[str], between: str = ", ") -> str:
    return between.join(names[:3]) + (f"{between}..." if len(names) > 3 else "")
