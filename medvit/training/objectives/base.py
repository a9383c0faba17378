"""Base class of training objectives."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

__all__ = ["Objective"]


class Objective(nn.Module):
    """A network and its loss.

    Attributes:
        network: the network that is averaged, scored and published.
        step: optimiser step of the next batch; the loop sets it, and schedules read it.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.step = 0

    def forward(self, *batch: Tensor) -> Tensor:
        """Compute the loss of a batch, a scalar."""
        raise NotImplementedError

    def groups(self) -> list[dict[str, Any]]:
        """Return the parameter groups for the optimiser; ``rate`` of a group is a factor on its learning rate (default
        1)."""
        return [{"params": list(self.parameters())}]

    def trained(self) -> dict[str, Tensor]:
        """Return the network's tensors that the objective trains and a run averages; by default all."""
        return self.network.state_dict()

    def finish(self, average: dict[str, Tensor]) -> dict[str, Tensor]:
        """Recompute tensors that depend on the averaged weights; by default there are none."""
        return average

    def fine_tuning_mode(self) -> None:
        """Disable aids for training from scratch, for a trained network; by default there are none."""
