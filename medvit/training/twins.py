"""Barlow Twins as an objective of the loop: two views of every picture, drawn where the loss is."""

from __future__ import annotations

import torch
from torch import Tensor

from medvit.segmentation.barlow_swin import BarlowSwin
from medvit.segmentation.barlow_twins import BarlowTwins, ViewSettings, barlow_twins_loss, two_views
from medvit.training.objectives import Objective

__all__ = ["TwinsObjective"]


class TwinsObjective(Objective):
    """Barlow Twins of a ``BarlowSwin``'s encoder (arXiv 2103.03230, 2509.06885), with two views drawn of every picture.

    Args:
        network: the network whose encoder is trained in place.
        hidden: width of the projector.
        off_diagonal: λ of the loss.
        weight_penalty: times the squared weights of the projector's hidden layers, added to the loss.
        views: how views are drawn.
    """

    def __init__(
        self,
        network: BarlowSwin,
        hidden: int = 256,
        off_diagonal: float = 5e-3,
        weight_penalty: float = 5e-4,
        views: ViewSettings | None = None,
    ) -> None:
        super().__init__(network)
        self.views = views
        self.twins = BarlowTwins(network, hidden, off_diagonal, weight_penalty)

    def trained(self) -> dict[str, Tensor]:
        """The encoder alone: a decoder as it was drawn would take the place of the next run's, its head's start included."""
        return {k: v for k, v in self.network.state_dict().items() if k.startswith("encoder.")}

    def forward(self, *batch: Tensor) -> Tensor:
        """The loss of one tensor of pictures, (batch, channel, row, column), float in 0..1 or uint8; a scalar.

        Raises:
            ShapeError: a batch of one. ImageError: another range.
        """
        (pictures,) = batch
        first, second = (self.twins.project(view).float() for view in two_views(pictures, self.views))
        # correlations in half precision would drown what is asked of them in rounding
        with torch.autocast(pictures.device.type, enabled=False):
            return barlow_twins_loss(first, second, self.twins.off_diagonal) + self.twins.penalty()
