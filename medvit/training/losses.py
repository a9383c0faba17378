"""Losses: for organs that fill a thousandth of the volume, and for a binary head on pictures."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from medvit.errors import ShapeError

__all__ = ["bce_dice", "weighted_dice_ce"]

_SMOOTH = 1e-6
"""Keeps Dice defined where neither picture nor reference holds anything."""


def bce_dice(logits: Tensor, target: Tensor) -> Tensor:
    """Half binary cross-entropy, half soft Dice over the whole batch (Barlow-Swin, arXiv 2509.06885).

    Args:
        logits: (batch, 1, height, width), float, before the sigmoid.
        target: the same shape, 0 or 1.

    Returns:
        A scalar.

    Raises:
        ShapeError: target of another shape, which would broadcast silently.
    """
    if logits.shape != target.shape:
        raise ShapeError(
            f"Found logits of {tuple(logits.shape)} and a target of {tuple(target.shape)}; both must be (batch, 1, height, width). Add or drop axes."
        )
    truth = target.to(logits.dtype)
    probability = logits.sigmoid()
    dice = (2 * (probability * truth).sum() + _SMOOTH) / (probability.sum() + truth.sum() + _SMOOTH)
    return 0.5 * F.binary_cross_entropy_with_logits(logits, truth) + 0.5 * (1 - dice)


def weighted_dice_ce(logits: Tensor, labels: Tensor, background_weight: float = 0.1) -> Tensor:
    """Cross-entropy with a light background plus soft Dice over the classes present in the batch.

    Plain Dice + CE leaves small organs at zero for hours: background drowns the cross-entropy, and Dice on
    classes that are absent from a patch punishes every attempt to find them.

    Args:
        logits: (batch, class, depth, height, width), float.
        labels: (batch, 1, depth, height, width), int64 class ids.
        background_weight: cross-entropy weight of class 0; the organs weigh 1.

    Returns:
        A scalar.
    """
    classes = logits.shape[1]
    weight = torch.ones(classes, dtype=logits.dtype, device=logits.device)
    weight[0] = background_weight
    cross_entropy = F.cross_entropy(logits, labels[:, 0], weight=weight)
    probabilities = logits.softmax(1)[:, 1:]
    truth = F.one_hot(labels[:, 0], classes).movedim(-1, 1)[:, 1:].to(logits.dtype)
    axes = (0, 2, 3, 4)
    overlap = (probabilities * truth).sum(axes)
    total = probabilities.sum(axes) + truth.sum(axes)
    present = truth.sum(axes) > 0
    if not bool(present.any()):
        return cross_entropy
    dice = 1 - 2 * overlap[present] / (total[present] + 1e-5)
    return cross_entropy + dice.mean()
