"""Conversion of published Restore-RWKV checkpoints, old and new, for strict loading; every key is used or named in an
error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from medvit.errors import BundleError
from medvit.restoration.networks.omni_shift import OmniShift

__all__ = ["translate"]

_WRAPPERS = ("state_dict", "params_ema", "params")
"""Keys under which training scripts store the weights; where both are there, the averaged ones are the published
result."""

_UNUSED = ".att.dwconv.weight"
"""Suffix of a convolution in older checkpoints whose output their network never used."""

_COPY = ".conv5x5_reparam.weight"
"""Suffix of the fused kernel, out of date in published checkpoints and recomputed from its branches."""

_SHOWN = 4


def translate(state: Mapping[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """Rename and complete a published state dict, so that it loads strictly into ``model``.

    Args:
        state: result of ``torch.load(path, weights_only=True)``: bare, or under ``state_dict``, ``params`` or
            ``params_ema``; names with or without ``module.``; with or without the fused kernels and the unused
            ``att.dwconv.weight`` of older checkpoints.
        model: the ``RestoreRWKV`` to load into, before ``fuse()``.

    Returns:
        One tensor for each key of ``model.state_dict()``, with fused kernels computed from their branches.

    Raises:
        BundleError: keys are missing, unknown or of another shape (the message names each kind), or weights are NaN or
            infinite.
    """
    given = {name.removeprefix("module."): value for name, value in _unwrapped(state).items()}
    wanted = model.state_dict()
    if not any(isinstance(module, OmniShift) for module in model.modules()):
        raise BundleError(
            "a fused network to load a checkpoint into",
            "fuse() removed its branches",
            "Load before fuse(), then fuse again.",
        )
    used = {
        name: value for name, value in given.items() if not (name.endswith((_UNUSED, _COPY)) and _known(name, wanted))
    }
    needed = {name: value for name, value in wanted.items() if not name.endswith(_COPY)}
    _refuse_others(used, needed)
    for name, module in model.named_modules():
        if isinstance(module, OmniShift):
            used[f"{name}{_COPY}"] = _fused(used, name)
    return {name: used[name] for name in wanted}


def _unwrapped(state: Mapping[str, Any]) -> Mapping[str, Any]:
    for name in _WRAPPERS:
        if isinstance(state.get(name), Mapping):
            return _unwrapped(state[name])
    return state


def _known(name: str, wanted: Mapping[str, Tensor]) -> bool:
    """Return True if a key that may be missing belongs to a block of this network."""
    if name.endswith(_COPY):
        return name in wanted
    return name.removesuffix(_UNUSED) + ".att.key.weight" in wanted


def _refuse_others(given: Mapping[str, Any], needed: Mapping[str, Tensor]) -> None:
    not_tensors = [name for name, value in given.items() if not isinstance(value, Tensor)]
    missing = [name for name in needed if name not in given]
    unknown = [name for name in given if name not in needed]
    shapes = [
        f"{name} {tuple(given[name].shape)} for {tuple(value.shape)}"
        for name, value in needed.items()
        if isinstance(given.get(name), Tensor) and given[name].shape != value.shape
    ]
    faults = {"missing": missing, "unknown": unknown, "of another shape": shapes, "no tensors": not_tensors}
    found = "; ".join(f"{len(names)} {what} ({_listed(names)})" for what, names in faults.items() if names)
    if found:
        raise BundleError(
            f"a checkpoint that is not this Restore-RWKV's: {found}",
            remedy=(
                "Every key must fit. Build the network with the checkpoint's dim and num_blocks, or give its own "
                "checkpoint."
            ),
        )
    spoiled = [name for name, value in given.items() if not bool(value.isfinite().all())]
    if spoiled:
        raise BundleError(
            f"NaN or infinite weights in {len(spoiled)} tensors ({_listed(spoiled)})",
            "all must be finite",
            "Fetch the file again.",
        )


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def _fused(state: Mapping[str, Tensor], name: str) -> Tensor:
    # a temporary OmniShift of the right width, so that the formula is written only once
    shift = OmniShift(state[f"{name}.conv1x1.weight"].shape[0])
    own = {key: state[f"{name}.{key}"] for key in shift.state_dict() if not f".{key}".endswith(_COPY)}
    shift.load_state_dict(own, strict=False)
    with torch.no_grad():
        return shift.kernel().clone()
