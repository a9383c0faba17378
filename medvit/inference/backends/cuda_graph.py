"""A network captured once as a CUDA graph, in bf16 if asked: no launch of a kernel waits for Python."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

__all__ = ["captured", "unsupported_reason"]

_WARM_UP = 3
"""Calls before the capture, in which libraries choose their kernels and take their memory."""


def unsupported_reason(batch: Tensor) -> str | None:
    """Why there is nothing to capture, or None."""
    if not torch.cuda.is_available():
        return "there is no CUDA device on this machine; use --backend auto, or a machine with an NVIDIA GPU"
    if batch.device.type != "cuda":
        return f"the windows lie on {batch.device}, not on a CUDA device; use --device gpu"
    return None


def captured(network: nn.Module, batch: Tensor, precision: str) -> Callable[[Tensor], Tensor]:
    """Windows of the example's size through one graph; another size, as of a last incomplete batch, runs as it is.

    Args:
        network: on the GPU, in evaluation mode.
        batch: (window, channel, *roi) on the GPU.
        precision: "fp32", or "bf16" by autocast; logits are float32 either way.
    """

    def plain(windows: Tensor) -> Tensor:
        with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16"):
            logits: Tensor = network(windows)
        return logits.float()

    given = batch.clone()
    aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(_WARM_UP):
            plain(given)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        made = plain(given)

    def run(windows: Tensor) -> Tensor:
        if windows.shape != given.shape:
            return plain(windows)
        given.copy_(windows)
        graph.replay()
        return made.clone()

    return run
