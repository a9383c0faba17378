"""Device, precision and processes of a training run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

import ignite.distributed as idist
import torch

from medvit.errors import BackendError
from medvit.training.loop.cpu_convolutions import speed_up_convolutions
from medvit.training.objectives import Objective

__all__ = ["Machine", "several_processes"]

_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Machine:
    """Device, precision and worker processes; they change results only by rounding.

    Attributes:
        device: device of the training. With several processes each has its own GPU.
        precision: "fp32", or on GPUs mixed precision with "bf16", or "fp16" with a scaled loss.
        workers: number of processes that prepare samples; 0 prepares them in the training process.

    Raises:
        BackendError: the precision is unknown, or the device does not support it for training.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: str = "fp32"
    workers: int = 0

    def __post_init__(self) -> None:
        if self.precision not in _TYPES:
            raise BackendError(
                f"precision {self.precision!r}",
                f"it must be one of {', '.join(_TYPES)}",
                "Correct {precision}.",
                option="precision",
            )
        if self.precision != "fp32" and self.device.type == "cpu":
            # with torch 2.13 on AVX-512, bf16 gradients of weights sometimes contain uninitialised memory, up to 1e34
            raise BackendError(
                f"precision {self.precision} on cpu",
                "on the CPU it sometimes gives wrong gradients of small convolutions (oneDNN, pytorch issue 169688)",
                "Take {precision=fp32}, or a GPU.",
                option="precision",
            )
        if self.precision == "fp16" and self.device.type != "cuda":
            raise BackendError(
                f"precision fp16 on {self.device.type}",
                "it needs a CUDA GPU to train",
                "Take {precision=bf16} or fp32.",
                option="precision",
            )

    @property
    def scaled(self) -> bool:
        """True if the loss must be scaled, since small gradients would underflow."""
        return self.precision == "fp16"

    def prepare_objective(self, objective: Objective) -> Objective:
        """Move the objective to the device, in place; on a CPU also speed up its convolutions."""
        if self.device.type == "cpu":
            speed_up_convolutions(objective)
        return objective.to(self.device)

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context of mixed precision, if requested."""
        return torch.autocast(self.device.type, _TYPES[self.precision], enabled=self.precision != "fp32")


@contextmanager
def several_processes(device: torch.device) -> Iterator[torch.device]:
    """Join the process group if ``torchrun`` started this process; yield this process's device."""
    if not torch.distributed.is_torchelastic_launched():
        yield device
        return
    idist.initialize("nccl" if device.type == "cuda" else "gloo")
    try:
        yield idist.device()
    finally:
        idist.finalize()
