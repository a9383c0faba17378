"""CUDA graph of a network, captured once, optionally in bf16, so that no kernel launch waits for Python."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

__all__ = ["captured", "unsupported_reason"]

_WARM_UP = 3
"""Number of calls before the capture, in which libraries choose their kernels and allocate memory."""


def unsupported_reason(batch: Tensor) -> str | None:
    """Return why no CUDA graph can be captured, or None."""
    if not torch.cuda.is_available():
        return "there is no CUDA device on this machine"
    if batch.device.type != "cuda":
        return f"the windows lie on {batch.device}, not on a CUDA device"
    return None


def captured(network: nn.Module, batch: Tensor, precision: str) -> Callable[[Tensor], Tensor]:
    """Capture a network as a CUDA graph for windows of the example's size; other sizes (a last, smaller batch) run
    without it.

    Args:
        network: a network on the GPU, in evaluation mode.
        batch: (window, channel, *roi) on the GPU.
        precision: "fp32", or "bf16" by autocast; logits are float32 in both cases.
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
