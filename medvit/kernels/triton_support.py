"""Checks whether Triton kernels can run on a tensor, and the device on which they are launched."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import torch
from torch import Tensor

__all__ = ["launching", "triton_unavailable_reason"]

_OLDEST = (8, 0)
"""Oldest compute capability for which tests compile the kernels (A100)."""

_INSTALLED = find_spec("triton") is not None
_INTERPRETING = os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")
"""True if Triton's interpreter replaces the GPU; Triton reads this variable once, when kernels are defined."""


def _constant(answer: Callable[[int], str | None]) -> Callable[[int], str | None]:
    """Mark a function as ``torch.compiler.assume_constant_result`` does, without importing the compiler (0.8 s per
    start)."""
    answer._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return answer


@_constant
def _too_old(index: int) -> str | None:
    if torch.version.hip is not None or torch.cuda.get_device_capability(index) >= _OLDEST:
        return None
    found = ".".join(map(str, torch.cuda.get_device_capability(index)))
    return f"the GPU has compute capability {found}, the kernels are tested from 8.0"


def triton_unavailable_reason(tensor: Tensor) -> str | None:
    """Return why a Triton kernel cannot take this tensor, or None if it can."""
    device = tensor.device
    if not _INSTALLED:
        return "triton is not installed; torch for CUDA brings it, elsewhere pip install triton"
    if device.type == "cpu" and _INTERPRETING:
        return None
    if device.type != "cuda":
        return f"the tensor is on {device}, Triton kernels run on CUDA devices"
    reason: str | None = _too_old(device.index or 0)
    return reason


@contextmanager
def launching(tensor: Tensor) -> Iterator[None]:
    """Launch kernels on the tensor's device, which need not be the current device."""
    if tensor.device.type == "cuda":
        with torch.cuda.device(tensor.device):
            yield
    else:
        yield
