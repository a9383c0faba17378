"""Fingerprint of a network: a hash that is equal for two networks only if they compute the same output."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

__all__ = ["fingerprint", "source_files"]

_PLAIN = (bool, int, float, str, type(None), tuple, torch.Size)

_KNOWN: WeakKeyDictionary[nn.Module, tuple[Any, str]] = WeakKeyDictionary()


def fingerprint(network: nn.Module) -> str:
    """Compute the sha256 over a network's weights, structure, settings and source files; cached until a tensor changes.

    Weights alone are not enough: networks with different orders of patch merging, or different shifts, can have equal
    weights.
    """
    state = _versions(network)
    known = _KNOWN.get(network)
    if known is not None and state is not None and known[0] == state:
        return known[1]
    digest = hashlib.sha256()
    for name, module in network.named_modules():
        settings = sorted(
            (key, repr(value))
            for key, value in vars(module).items()
            if not key.startswith("_") and isinstance(value, _PLAIN)
        )
        digest.update(repr((name, type(module).__module__, type(module).__qualname__, settings)).encode())
    for file in source_files(network):
        digest.update(Path(file).read_bytes())
    for name, tensor in sorted({**dict(network.named_parameters()), **dict(network.named_buffers())}.items()):
        plain = tensor.detach().cpu().contiguous()
        digest.update(repr((name, tuple(plain.shape), str(plain.dtype))).encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b"")
    found = digest.hexdigest()
    if state is not None:
        _KNOWN[network] = (state, found)
    return found


def source_files(network: nn.Module) -> list[str]:
    """List the source files of a network's classes, sorted, without those of torch, which its version covers."""
    return sorted({file for module in network.modules() for file in _sources(type(module))})


def _versions(network: nn.Module) -> Any:
    """Return a value that changes whenever a tensor does; None for inference tensors, which have no version counter."""
    tensors = [*network.parameters(), *network.buffers()]
    if any(tensor.is_inference() for tensor in tensors):
        return None
    kinds = tuple(id(type(module)) for module in network.modules())
    return kinds, tuple((tensor.data_ptr(), tensor._version) for tensor in tensors)


def _sources(kind: type) -> list[str]:
    """List the source files of a class and its base classes, except those of torch."""
    modules = [
        sys.modules.get(c.__module__) for c in kind.__mro__ if not c.__module__.startswith(("torch", "builtins"))
    ]
    files = [getattr(module, "__file__", None) for module in modules]
    return [file for file in files if file and Path(file).is_file()]
