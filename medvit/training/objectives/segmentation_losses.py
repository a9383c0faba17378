"""Losses for segmentation: of organs that fill a thousandth of the volume, and of one binary class on pictures."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from medvit.errors import ShapeError

__all__ = ["bce_dice", "focal_tversky", "focal_tversky_ce", "weighted_dice_ce"]

_SMOOTH = 1e-6
"""Small number that keeps Dice defined where both prediction and reference are empty."""


def bce_dice(logits: Tensor, target: Tensor) -> Tensor:
    """Compute half binary cross-entropy plus half soft Dice over the whole batch (Barlow-Swin, arXiv 2509.06885).

    Args:
        logits: (batch, 1, height, width), float, before the sigmoid.
        target: the same shape, 0 or 1.

    Returns:
        A scalar.

    Raises:
        ShapeError: the target has another shape, which would broadcast silently.
    """
    if logits.shape != target.shape:
        raise ShapeError(
            f"logits of {tuple(logits.shape)} and a target of {tuple(target.shape)}",
            "both must be (batch, 1, height, width)",
            "Add or drop axes.",
        )
    truth = target.to(logits.dtype)
    probability = logits.sigmoid()
    dice = (2 * (probability * truth).sum() + _SMOOTH) / (probability.sum() + truth.sum() + _SMOOTH)
    return 0.5 * F.binary_cross_entropy_with_logits(logits, truth) + 0.5 * (1 - dice)


def weighted_dice_ce(
    logits: Tensor,
    labels: Tensor,
    background_weight: float = 0.1,
    light: Sequence[int] = (0,),
    annotated: Tensor | None = None,
) -> Tensor:
    """Compute cross-entropy with a low background weight plus soft Dice over the classes present in the batch.

    With plain Dice + CE, small organs stay at zero for hours: background dominates the cross-entropy, and Dice of
    classes absent from a patch penalises every attempt to find them.

    With ``annotated`` this is the marginal cross-entropy and marginal Dice of Shi et al., "Marginal loss and exclusion
    loss for partially supervised multi-organ segmentation" (Medical Image Analysis 70, 2021, arXiv 2007.03868, section
    3.2): a voxel labelled as background may belong to any class that was not annotated, so its probability is the sum
    of theirs and background's; the Dice of a class includes only samples in which the class was annotated.

    Args:
        logits: (batch, class, *spatial), float.
        labels: (batch, 1, *spatial), int64 class ids.
        background_weight: cross-entropy weight of the light classes; other classes have weight 1.
        light: classes that would dominate the others: background, and organs of similar size.
        annotated: (batch, class), bool, True for classes whose voxels are all labelled. Background's entry does not
            matter. None if every class is annotated in every sample.

    Returns:
        A scalar.

    Raises:
        ShapeError: ``annotated`` has another shape.
    """
    classes = logits.shape[1]
    cross_entropy = _cross_entropy(logits, labels, background_weight, light, annotated)
    probabilities = _of_annotated(logits.softmax(1)[:, 1:], annotated)
    truth = F.one_hot(labels[:, 0], classes).movedim(-1, 1)[:, 1:].to(logits.dtype)
    axes = (0, *range(2, logits.ndim))
    overlap = (probabilities * truth).sum(axes)
    total = probabilities.sum(axes) + truth.sum(axes)
    present = truth.sum(axes) > 0
    if not bool(present.any()):
        return cross_entropy
    dice = 1 - 2 * overlap[present] / (total[present] + 1e-5)
    return cross_entropy + dice.mean()


def _cross_entropy(
    logits: Tensor, labels: Tensor, background_weight: float, light: Sequence[int], annotated: Tensor | None
) -> Tensor:
    weight = torch.ones(logits.shape[1], dtype=logits.dtype, device=logits.device)
    weight[list(light)] = background_weight
    if annotated is None:
        return F.cross_entropy(logits, labels[:, 0], weight=weight)
    return F.nll_loss(_marginal_log_probabilities(logits, annotated), labels[:, 0], weight=weight)


def _marginal_log_probabilities(logits: Tensor, annotated: Tensor) -> Tensor:
    """Replace background's log-probability by that of background or any class that was not annotated."""
    merged = ~_checked_annotated(annotated, logits.shape)
    merged[:, 0] = True
    log_probabilities = logits.log_softmax(1)
    apart = ~merged.reshape(*merged.shape, *[1] * (logits.ndim - 2))
    background = log_probabilities.masked_fill(apart, -torch.inf).logsumexp(1, keepdim=True)
    return torch.cat((background, log_probabilities[:, 1:]), 1)


def _of_annotated(probabilities: Tensor, annotated: Tensor | None) -> Tensor:
    """Set the probabilities (batch, class without background, *spatial) of classes that were not annotated to zero."""
    if annotated is None:
        return probabilities
    batch, organs, *spatial = probabilities.shape
    counted = _checked_annotated(annotated, (batch, organs + 1))[:, 1:]
    return probabilities * counted.reshape(batch, organs, *[1] * len(spatial))


def _checked_annotated(annotated: Tensor, shape: Sequence[int]) -> Tensor:
    if annotated.dtype != torch.bool or tuple(annotated.shape) != tuple(shape[:2]):
        raise ShapeError(
            (
                f"annotated classes of shape {tuple(annotated.shape)} and type {annotated.dtype} for logits of "
                f"{shape[0]} samples and {shape[1]} classes"
            ),
            "booleans of shape (batch, class) are needed",
            "Give one for each class of each sample, background included.",
        )
    return annotated


def focal_tversky(
    logits: Tensor,
    labels: Tensor,
    alpha: float = 0.7,
    beta: float = 0.3,
    gamma: float = 4 / 3,
    annotated: Tensor | None = None,
) -> Tensor:
    """Compute the mean of (1 - TI_c)^(1/γ) over the organs present in the batch (Abraham & Khan, arXiv 1810.07842, eq.
    3 and 4).

    TI_c = TP / (TP + α FN + β FP) from probabilities. With α above β a missed voxel costs more than a false one, which
    suits organs of a few voxels; γ above 1 raises the gradient of organs that are already mostly right. α = β = 0.5 and
    γ = 1 is one minus Dice. The paper sums over classes; the mean keeps the balance with other terms for any number of
    organs in a patch.

    Args:
        logits: (batch, class, *spatial), float. Half precision is summed as float32: 65504 voxels overflow fp16.
        labels: (batch, 1, *spatial), int64 class ids; class 0 is background and does not count.
        alpha: weight of false-negative voxels.
        beta: weight of false-positive voxels.
        gamma: inverse of the exponent, 1 to 3 in the paper.
        annotated: as for ``weighted_dice_ce``; an organ counts only in samples in which it was annotated.

    Returns:
        A scalar, float32 or, for float64 logits, float64; 0 if the batch has no organ.

    Raises:
        ShapeError: sizes do not match, ids are beyond the classes, or parameters are outside their range.
    """
    _check_classes(logits, labels)
    if not (alpha > 0 and beta >= 0 and gamma >= 1):
        raise ShapeError(
            f"alpha = {alpha:g}, beta = {beta:g} and gamma = {gamma:g}",
            "alpha above 0, beta of at least 0 and gamma of at least 1 are needed",
            "The paper uses 0.7, 0.3 and 4/3.",
        )
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    probabilities = _of_annotated(wide.softmax(1)[:, 1:], annotated)
    truth = F.one_hot(labels[:, 0], logits.shape[1]).movedim(-1, 1)[:, 1:].to(wide.dtype)
    axes = (0, *range(2, logits.ndim))
    hit, missed = (probabilities * truth).sum(axes), ((1 - probabilities) * truth).sum(axes)
    spare = (probabilities * (1 - truth)).sum(axes)
    present = truth.sum(axes) > 0
    if not bool(present.any()):
        return probabilities.sum() * 0  # zero with a gradient of zero, rather than without a gradient
    # computed from the errors, since 1 - TI would round to zero for a nearly perfect organ
    wrong = alpha * missed + beta * spare
    error = (wrong / (hit + wrong + _SMOOTH))[present]
    # error^(1/γ), replaced below 1e-6 by a line, since the slope of the root is infinite at 0
    focal: Tensor = error * (error.square() + _SMOOTH**2) ** ((1 / gamma - 1) / 2)
    return focal.mean()


def focal_tversky_ce(
    logits: Tensor,
    labels: Tensor,
    background_weight: float = 0.1,
    alpha: float = 0.7,
    beta: float = 0.3,
    gamma: float = 4 / 3,
    light: Sequence[int] = (0,),
    annotated: Tensor | None = None,
) -> Tensor:
    """Compute cross-entropy with a low background weight plus ``focal_tversky``, an alternative to ``weighted_dice_ce``
    for small organs.

    Args:
        logits: (batch, class, *spatial), float.
        labels: (batch, 1, *spatial), int64 class ids.
        background_weight, light: as in ``weighted_dice_ce``.
        alpha, beta, gamma: as in ``focal_tversky``.
        annotated: as in ``weighted_dice_ce``.

    Returns:
        A scalar, float32 or, for float64 logits, float64.

    Raises:
        ShapeError: as ``focal_tversky``.
    """
    tversky = focal_tversky(logits, labels, alpha, beta, gamma, annotated)
    return _cross_entropy(logits.to(tversky.dtype), labels, background_weight, light, annotated) + tversky


def _check_classes(logits: Tensor, labels: Tensor) -> None:
    if logits.ndim < 3 or labels.shape != (logits.shape[0], 1, *logits.shape[2:]):
        raise ShapeError(
            f"labels of shape {tuple(labels.shape)} for logits of {tuple(logits.shape)}",
            "(batch, 1, *spatial) for (batch, class, *spatial) is needed",
            "Add or drop axes.",
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= logits.shape[1]:
        raise ShapeError(
            f"label ids from {low} to {high}",
            f"the logits have classes 0..{logits.shape[1] - 1}",
            "Correct the labels or the network.",
        )
