"""Checks for graph recording and compilation, during which tensors hold no values or medvit's operators must be
avoided."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

__all__ = ["can_skip_dispatcher", "has_concrete_values", "recording"]


def recording() -> bool:
    """Return True while ``torch.export`` or ``torch.jit.trace`` records a graph (MONAI's export commands trace).

    Operators then use plain PyTorch operators: a numba loop would be recorded as the constants it computed for the
    example input, and medvit's own operators do not exist where the graph is loaded.
    """
    if torch.compiler.is_compiling():  # the compiler cannot trace a call to torch._C._is_tracing
        return torch.compiler.is_exporting()
    return bool(torch._C._is_tracing())


def has_concrete_values() -> bool:
    """Return True if tensors hold values; while a graph is recorded or compiled they do not."""
    return not (torch.compiler.is_compiling() or bool(torch._C._is_tracing()))


def can_skip_dispatcher(*tensors: Tensor | None) -> bool:
    """Return True if an operator's function may be called on these tensors without PyTorch's dispatcher.

    This holds if nothing observes the call: no gradient is needed, no graph is recorded, and no dispatch mode or
    functorch transform is active. The first call of a custom operator through the dispatcher imports ``torch._dynamo``,
    which takes two seconds.
    """
    given = [tensor for tensor in tensors if tensor is not None]
    return (
        all(type(tensor) in (Tensor, Parameter) for tensor in given)
        and not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given))
        and has_concrete_values()
        and not is_in_torch_dispatch_mode()
        and not torch._C._are_functorch_transforms_active()
        and not torch.autograd.forward_ad._current_level >= 0
    )
