"""Loss of two-view networks: each view learns the labels, and the views learn to agree (Swin-X2S, arXiv 2501.05961)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from medvit.errors import ShapeError

__all__ = ["ViewLosses", "view_agreement", "view_losses"]

_SMOOTH = 1e-5


@dataclass(frozen=True)
class ViewLosses:
    """Losses of each view.

    Attributes:
        labels: Dice plus cross-entropy against the labels, (view,).
        agreement: divergence of the other views from each view, (view,).
    """

    labels: Tensor
    agreement: Tensor

    @property
    def total(self) -> Tensor:
        """Total loss, a scalar: the mean over the views of the sum of both."""
        return (self.labels + self.agreement).mean()


def view_agreement(logits: Sequence[Tensor]) -> Tensor:
    """Compute for each view the divergence of the other views' distributions from its own, (view,).

    KL(other || own), summed over the others and averaged over voxels and classes, as published. The gradient flows to
    both sides.

    Args:
        logits: one volume (batch, class, x, y, z) per view.

    Raises:
        ShapeError: there are fewer than two views, or shapes differ.
    """
    _check(logits)
    logs = [view.log_softmax(1) for view in logits]
    rows = []
    for i, own in enumerate(logs):
        apart = [(other.exp() * (other - own)).mean() for j, other in enumerate(logs) if j != i]
        rows.append(torch.stack(apart).sum())
    return torch.stack(rows)


def view_losses(logits: Sequence[Tensor], labels: Tensor) -> ViewLosses:
    """Compute Dice + cross-entropy of each view against the labels, and the agreement of the views.

    Dice is over all classes, background included, per case, as published.

    Args:
        logits: one volume (batch, class, x, y, z) per view, float.
        labels: (batch, 1, x, y, z), integer class ids.

    Raises:
        ShapeError: shapes do not match, there are fewer than two views, or ids are beyond the classes.
    """
    _check(logits)
    first = logits[0]
    if labels.shape != (first.shape[0], 1, *first.shape[2:]):
        raise ShapeError(
            f"labels of shape {tuple(labels.shape)} for logits of {tuple(first.shape)}",
            "(batch, 1, x, y, z) of the same size is needed",
            "Resample the labels to the network's grid.",
        )
    ids = labels[:, 0].long()
    lowest, highest = int(ids.min()), int(ids.max())
    if lowest < 0 or highest >= first.shape[1]:
        raise ShapeError(
            f"label ids from {lowest} to {highest}",
            f"the logits have classes 0..{first.shape[1] - 1}",
            "Map the ids first.",
        )
    truth = F.one_hot(ids, first.shape[1]).movedim(-1, 1).to(first.dtype)
    own = torch.stack([_dice_loss(view, truth) + F.cross_entropy(view, ids) for view in logits])
    return ViewLosses(own, view_agreement(logits))


def _dice_loss(logits: Tensor, truth: Tensor) -> Tensor:
    probabilities = logits.softmax(1)
    axes = tuple(range(2, logits.ndim))
    overlap = (probabilities * truth).sum(axes)
    total = probabilities.sum(axes) + truth.sum(axes)
    return (1 - (2 * overlap + _SMOOTH) / (total + _SMOOTH)).mean()


def _check(logits: Sequence[Tensor]) -> None:
    shapes = [tuple(view.shape) for view in logits]
    if len(shapes) < 2 or len(set(shapes)) > 1 or len(shapes[0]) != 5:
        raise ShapeError(
            f"logits of shapes {shapes}",
            "two or more views of one shape (batch, class, x, y, z) are needed",
            "Pass what the network returns.",
        )
