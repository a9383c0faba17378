"""A constraint beside a loss: the mean of what lies beside bone stays what it is in the clean image."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medvit.errors import BundleError

__all__ = ["MeanConstraint", "MeanConstraintSettings"]


@dataclass(frozen=True)
class MeanConstraintSettings:
    """Whose mean is held, and how firmly.

    Attributes:
        between: (low, high): clean intensities that count, in the images' unit.
        beside: only pixels at most so many pixels, along either axis, from a clean intensity above ``high``; 0 for all pixels.
        noise_levels: root mean squares of the noise at which another multiplier begins, rising, in the images' unit. What a
            guess is biased by grows with the noise, so what corrects it must as well.
        rate: by how much a multiplier grows in a step for each unit that its mean is too high.

    Raises:
        BundleError: the range or the levels are out of order, or the rate is not positive.
    """

    between: tuple[float, float]
    beside: int = 2
    noise_levels: Sequence[float] = ()
    rate: float = 0.05

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in itertools.pairwise(self.noise_levels))
        if not (self.between[0] < self.between[1] and self.beside >= 0 and rising and self.rate > 0):
            raise BundleError(
                (
                    f"between {self.between}, beside {self.beside}, noise_levels {list(self.noise_levels)} and rate "
                    f"{self.rate}"
                ),
                "ranges in order, rising levels, 0 pixels or more and a positive rate are needed",
                "Correct train.json.",
            )


class MeanConstraint(nn.Module):
    """Holds E[restored - clean] at zero over some pixels, at each level of noise, by Lagrange multipliers.

    The least squares guess E[clean | degraded] is right on average over *all* pixels that look alike. Over those that turn out
    to be soft tissue it is too bright where they might have been bone, and nobody counts it as too dark where they were.
    Among all images whose mean is right over the held pixels, the one with the least squared error is that guess less a
    constant times the probability that the pixel is one of them. The multipliers are these constants; they rise as long as
    the mean is too high (dual ascent: K. Arrow, L. Hurwicz, H. Uzawa, Studies in Linear and Non-Linear Programming, 1958).
    They are buffers, so a run that goes on from a checkpoint has them.
    """

    multipliers: Tensor

    def __init__(self, settings: MeanConstraintSettings) -> None:
        super().__init__()
        self.settings = settings
        self.register_buffer("multipliers", torch.zeros(len(settings.noise_levels) + 1))

    def forward(self, degraded: Tensor, restored: Tensor, clean: Tensor) -> Tensor:
        """What is added to the loss; in training the multipliers move as well.

        Args:
            degraded: (batch, channel, i, j), float; of several channels the middle one is the image itself.
            restored: (batch, 1, i, j), float.
            clean: the same.

        Returns:
            A scalar: each image's sum of differences over the held pixels times its multiplier, a mean over all pixels.
        """
        held, noise = self._held(clean), degraded[:, degraded.shape[1] // 2][:, None] - clean
        count = held.sum((1, 2, 3))
        excess = ((restored - clean) * held).sum((1, 2, 3))
        size = ((noise.square() * held).sum((1, 2, 3)) / count.clamp(min=1)).sqrt()
        level = torch.bucketize(size, torch.tensor(self.settings.noise_levels, device=size.device).to(size))
        # its value before this step moves it: autograd keeps what the product was made of
        added = (self.multipliers[level].to(excess) * excess).sum() / clean.numel()
        if self.training:
            self._move(level, excess.detach(), count)
        return added

    def _held(self, clean: Tensor) -> Tensor:
        low, high = self.settings.between
        held = ((clean >= low) & (clean <= high)).to(clean)
        if not self.settings.beside:
            return held
        side = 2 * self.settings.beside + 1
        return held * F.max_pool2d((clean > high).to(clean), side, stride=1, padding=self.settings.beside)

    @torch.no_grad()
    def _move(self, level: Tensor, excess: Tensor, count: Tensor) -> None:
        sums, counts = (
            torch.zeros_like(self.multipliers).index_add_(0, level, v.to(self.multipliers)) for v in (excess, count)
        )
        self.multipliers += self.settings.rate * sums / counts.clamp(min=1)
