"""Whether a graph is being written down that must run where medvit is not."""

from __future__ import annotations

import torch

__all__ = ["recording", "values_known"]


def recording() -> bool:
    """Whether ``torch.export`` or ``torch.jit.trace`` is watching (MONAI's export commands trace).

    Operators then take a path of PyTorch's own operators: a loop of numba would be written down as the numbers it gave
    for the example, and an operator of medvit's would be missing wherever the graph is read.
    """
    return torch.compiler.is_exporting() or bool(torch._C._is_tracing())


def values_known() -> bool:
    """Whether tensors hold numbers to look at; those of a graph that is being recorded or compiled do not."""
    return not (torch.compiler.is_compiling() or bool(torch._C._is_tracing()))
