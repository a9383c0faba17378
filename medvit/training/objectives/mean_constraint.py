"""Constraint beside a loss: the mean of pixels next to bone is kept equal to that of the clean image."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medvit.training.checked_settings import Interval, Positive, Rising, WholeNumber, checked_settings

__all__ = ["MeanConstraint", "MeanConstraintSettings"]


@checked_settings
class MeanConstraintSettings:
    """Settings of a mean constraint.

    Attributes:
        between: (low, high): range of clean intensities that count, in the images' unit.
        beside: only pixels within this number of pixels, along either axis, of a clean intensity above ``high``; 0 for
            all.
        noise_levels: rising root mean squares of the noise at which another multiplier begins, in the images' unit. The
            bias of an estimate grows with the noise, so its correction must too.
        rate: growth of a multiplier in a step per unit of excess of its mean.

    Raises:
        BundleError: the range or the levels are out of order, or the rate is not positive.
    """

    between: Interval
    beside: WholeNumber = 2
    noise_levels: Rising = ()
    rate: Positive = 0.05


class MeanConstraint(nn.Module):
    """Constraint E[restored - clean] = 0 over some pixels, at each level of noise, by Lagrange multipliers.

    The least-squares estimate E[clean | degraded] is unbiased on average over *all* pixels that look alike. Over those
    of them that are soft tissue it is too bright if they could also have been bone; the opposite error on bone is not
    measured. Among all images with an unbiased mean over the constrained pixels, the one with the least squared error
    is that estimate minus a constant times the probability that the pixel is constrained. The multipliers are these
    constants; they rise as long as the mean is too high (dual ascent: K. Arrow, L. Hurwicz, H. Uzawa, Studies in Linear
    and Non-Linear Programming, 1958). They are buffers, so that checkpoints include them.
    """

    multipliers: Tensor

    def __init__(self, settings: MeanConstraintSettings) -> None:
        super().__init__()
        self.settings = settings
        self.register_buffer("multipliers", torch.zeros(len(settings.noise_levels) + 1))

    def forward(self, degraded: Tensor, restored: Tensor, clean: Tensor) -> Tensor:
        """Compute the term that is added to the loss; in training also update the multipliers.

        Args:
            degraded: (batch, channel, i, j), float; of several channels the middle one is the image itself.
            restored: (batch, 1, i, j), float.
            clean: (batch, 1, i, j), float.

        Returns:
            A scalar: each image's sum of differences over the constrained pixels times its multiplier, averaged over
                all pixels.
        """
        held, noise = self._held(clean), degraded[:, degraded.shape[1] // 2][:, None] - clean
        count = held.sum((1, 2, 3))
        excess = ((restored - clean) * held).sum((1, 2, 3))
        size = ((noise.square() * held).sum((1, 2, 3)) / count.clamp(min=1)).sqrt()
        level = torch.bucketize(size, torch.tensor(self.settings.noise_levels, device=size.device).to(size))
        # the multipliers are copied by indexing, so that the update below does not change this product
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
