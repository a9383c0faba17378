"""Checks for graph recording and compilation, during which tensors hold no values or medvit's operators must be avoided."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

__all__ = ["has_concrete_values", "plain", "recording"]


def recording() -> bool:
    """Return True while ``torch.export`` or ``torch.jit.trace`` records a graph (MONAI's export commands trace).

    Operators then use plain PyTorch operators: a numba loop would be recorded as the constants it computed for the example
    input, and medvit's own operators do not exist where the graph is loaded.
    """
    if torch.compiler.is_compiling():  # the compiler cannot trace a call to torch._C._is_tracing
        return torch.compiler.is_exporting()
    return bool(torch._C._is_tracing())


def has_concrete_values() -> bool:
    """Return True if tensors hold values; while a graph is recorded or compiled they do not."""
    return not (torch.compiler.is_compiling() or bool(torch._C._is_tracing()))


def plain(tensor: Tensor) -> bool:
    """Return True if an operator without gradients may bypass PyTorch's dispatcher: a plain tensor, no recording, no functorch.

    The dispatcher imports the compiler at its first call of an operator, which delays every start of a command by a second.
    """
    return (
        type(tensor) is Tensor
        and has_concrete_values()
        and not is_in_torch_dispatch_mode()
        and not torch._C._are_functorch_transforms_active()
    )
