"""Backend by ``torch.compile``, which needs a C++ compiler."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

__all__ = ["compiled", "unsupported_reason"]

_MADE: WeakKeyDictionary[nn.Module, Callable[..., Tensor]] = WeakKeyDictionary()


def unsupported_reason() -> str | None:
    """Return why nothing can be compiled here, or None."""
    names = ("cl",) if sys.platform == "win32" else ("g++", "clang++", "c++")
    if not any(shutil.which(name) for name in names):
        return f"torch.compile needs a C++ compiler, and none of {', '.join(names)} is on the PATH; install one"
    return None


def compiled(network: nn.Module) -> Callable[..., Tensor]:
    """Compile a network for windows of one size, cached for the network's lifetime. The first window takes minutes."""
    if network not in _MADE:
        made = torch.compile(network, dynamic=False)
        _MADE[network] = _held(made)
    return _MADE[network]


def _held(made: Callable[..., Tensor]) -> Callable[..., Tensor]:
    # compiled code checks for the tensor tracking that inference mode changes; no_grad is enough here
    def run(batch: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.no_grad():
            return made(batch.clone() if batch.is_inference() else batch)

    return run
