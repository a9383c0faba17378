"""Losses between a restored image and the clean one."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from medvit.errors import ShapeError

__all__ = ["charbonnier", "l1", "ssim", "ssim_loss", "ssim_map"]

_WINDOW, _SIGMA = 11, 1.5
_K1, _K2 = 0.01, 0.03
"""Constants of SSIM, with window and sigma above (Wang et al., IEEE TIP 13(4), 2004, section III-C)."""


def _check(restored: Tensor, clean: Tensor) -> None:
    if restored.shape != clean.shape or restored.ndim < 4 or 0 in restored.shape:
        raise ShapeError(
            f"a restored image of shape {tuple(restored.shape)} and a clean one of {tuple(clean.shape)}",
            "both must be one (batch, channel, *spatial) with at least one pixel",
            "Check the network's output channels.",
        )
    if restored.dtype != clean.dtype or restored.device != clean.device or not restored.is_floating_point():
        raise ShapeError(
            f"{restored.dtype} on {restored.device} and {clean.dtype} on {clean.device}",
            "both must be one floating type on one device",
            "Convert the clean image: clean.to(restored).",
        )


def l1(restored: Tensor, clean: Tensor) -> Tensor:
    """Compute the mean absolute difference, the training loss of Restore-RWKV.

    Args:
        restored: (batch, channel, *spatial), float.
        clean: the same shape and type.

    Returns:
        A scalar, 0 or more, in the images' unit.

    Raises:
        ShapeError: shapes, types or devices differ.
    """
    _check(restored, clean)
    return F.l1_loss(restored, clean)


def charbonnier(restored: Tensor, clean: Tensor, epsilon: float = 1e-3) -> Tensor:
    """Compute the mean of sqrt(d² + ε²) - ε, the absolute difference smoothed where it is below ε (Charbonnier et al.,
    1994).

    Args and errors as for ``l1``; ``epsilon`` is above 0, in the images' unit.
    """
    _check(restored, clean)
    if not epsilon > 0:
        raise ShapeError(f"epsilon = {epsilon}", "a positive number is needed", "1e-3 is usual for images in 0..1.")
    return ((restored - clean).square() + epsilon**2).sqrt().mean() - epsilon


def ssim(restored: Tensor, clean: Tensor, data_range: float = 1.0) -> Tensor:
    """Compute the structural similarity (Wang et al., IEEE TIP 13(4), 2004, eq. 13), averaged over all whole windows.

    Gaussian windows of 11 pixels a side (sigma 1.5), biased variances, windows only where they fit.

    Args:
        restored: (batch, channel, height, width), float; sides of at least 11.
        clean: the same shape and type.
        data_range: largest minus smallest possible value, in the images' unit.

    Returns:
        A scalar in -1..1; 1 for equal images.

    Raises:
        ShapeError: shapes, types or devices differ, an image smaller than a window, or a range of 0 or less.
    """
    return ssim_map(restored, clean, data_range).mean()


def ssim_map(restored: Tensor, clean: Tensor, data_range: float = 1.0) -> Tensor:
    """Compute the SSIM of each window, (batch * channel, 1, height - 10, width - 10); args and errors as for
    ``ssim``."""
    _check(restored, clean)
    if restored.ndim != 4 or min(restored.shape[2:]) < _WINDOW:
        raise ShapeError(
            f"images of shape {tuple(restored.shape)}",
            f"(batch, channel, height, width) with sides of at least {_WINDOW} is needed",
            "Take larger crops, and volumes slice by slice.",
        )
    if not data_range > 0:
        raise ShapeError(f"data_range = {data_range}", "a positive number is needed", "1 is right for images in 0..1.")
    place = torch.arange(_WINDOW, dtype=restored.dtype, device=restored.device) - _WINDOW // 2
    line = torch.exp(-place.square() / (2 * _SIGMA**2))
    line = line / line.sum()

    def smooth(image: Tensor) -> Tensor:
        flat = image.flatten(0, 1)[:, None]
        return F.conv2d(F.conv2d(flat, line.view(1, 1, -1, 1)), line.view(1, 1, 1, -1))

    # each image's mean is subtracted, so that float32 is accurate for images far from zero
    base_a, base_b = restored.mean(), clean.mean()
    a, b = restored - base_a, clean - base_b
    near_a, near_b = smooth(a), smooth(b)
    mean_a, mean_b = near_a + base_a, near_b + base_b
    spread_a = smooth(a * a) - near_a.square()
    spread_b = smooth(b * b) - near_b.square()
    together = smooth(a * b) - near_a * near_b
    c1, c2 = (_K1 * data_range) ** 2, (_K2 * data_range) ** 2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a.square() + mean_b.square() + c1)
    structure = (2 * together + c2) / (spread_a + spread_b + c2)
    return luminance * structure


def ssim_loss(restored: Tensor, clean: Tensor, data_range: float = 1.0) -> Tensor:
    """Compute 1 - ``ssim``: 0 for equal images."""
    return 1 - ssim(restored, clean, data_range)
