"""The objective of a training: what every one of them has."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

__all__ = ["Objective"]


class Objective(nn.Module):
    """A network and its loss.

    Attributes:
        network: what is averaged, scored and published.
        step: the optimiser step that the next batch belongs to; the loop sets it, schedules read it.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.step = 0

    def forward(self, *batch: Tensor) -> Tensor:
        """The loss of a batch, a scalar."""
        raise NotImplementedError

    def groups(self) -> list[dict[str, Any]]:
        """Parameters for the optimiser, in groups; a group's ``rate`` is the share of the learning rate it gets, else all."""
        return [{"params": list(self.parameters())}]

    def trained(self) -> dict[str, Tensor]:
        """The network's tensors that a run averages and leaves behind: those that the objective trains; by default all."""
        return self.network.state_dict()

    def finish(self, average: dict[str, Tensor]) -> dict[str, Tensor]:
        """What follows from the averaged weights and must be computed anew; by default nothing."""
        return average

    def fine_tuning_mode(self) -> None:
        """Leave out what helps weights that begin from nothing: for a network that is trained already; by default nothing."""
