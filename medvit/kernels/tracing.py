"""Whether a graph is being written down that must run where medvit is not."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

__all__ = ["has_concrete_values", "plain", "recording"]


def recording() -> bool:
    """Whether ``torch.export`` or ``torch.jit.trace`` is watching (MONAI's export commands trace).

    Operators then take a path of PyTorch's own operators: a loop of numba would be written down as the numbers it gave
    for the example, and an operator of medvit's would be missing wherever the graph is read.
    """
    if torch.compiler.is_compiling():  # which does not follow a question to the tracer
        return torch.compiler.is_exporting()
    return bool(torch._C._is_tracing())


def has_concrete_values() -> bool:
    """Whether tensors hold numbers to look at; those of a graph that is being recorded or compiled do not."""
    return not (torch.compiler.is_compiling() or bool(torch._C._is_tracing()))


def plain(tensor: Tensor) -> bool:
    """Whether an operator without gradients may run on a tensor without PyTorch's dispatcher: numbers that nothing watches.

    Its first call of an operator imports the compiler, a second that a command would wait for each time it starts.
    """
    return (
        type(tensor) is Tensor
        and has_concrete_values()
        and not is_in_torch_dispatch_mode()
        and not torch._C._are_functorch_transforms_active()
    )
