"""Sums of overlapping windows over a whole image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medvit.errors import ShapeError
from medvit.kernels.triton_support import triton_unavailable_reason

__all__ = ["Blend", "box", "check_window", "fused"]


class Blend:
    """Accumulator of overlapping windows, added one at a time, with their weighted mean at the end.

    Args:
        size: (axis,) image size in voxels.
        channels: number of channels of a window.
        weight: (*roi) positive weight of each voxel of a window.
        batch: number of images; all have windows at the same positions.
        device: device of the sums; None for the device of ``weight``.
    """

    def __init__(
        self,
        size: Sequence[int],
        channels: int,
        weight: Tensor,
        batch: int = 1,
        device: torch.device | None = None,
    ) -> None:
        place = device or weight.device
        self._weight = weight
        self._sums = torch.zeros(batch, channels, *size, dtype=weight.dtype, device=place)
        self._weights = torch.zeros(*size, dtype=weight.dtype, device=place)

    def add(self, window: Tensor, origin: Sequence[int], image: int = 0) -> None:
        """Add a window's values, (channel, *roi), times the weight.

        Raises:
            ShapeError: the window has another size or number of channels, or is partly outside the image.
        """
        check_window(window, self._sums.shape[1], self._weight)
        at = box(origin, self._weight.shape)
        place = self._sums[image][(slice(None), *at)]
        if place.shape != window.shape:
            raise ShapeError(
                (
                    f"a window of {tuple(self._weight.shape)} at {tuple(origin)} in an image of "
                    f"{tuple(self._weights.shape)}"
                ),
                "it must lie within",
                "Pad the image, or correct the origin.",
            )
        if fused(place, window, self._weight):
            from medvit.kernels.overlap_add import triton

            triton.accumulate(place, self._weights[at] if image == 0 else None, window, self._weight)
            return
        # product and sum are rounded separately, as in MONAI: a fused multiply-add gives other last digits
        place.add_((window * self._weight).to(place.device))
        if image == 0:
            self._weights[at].add_(self._weight.to(place.device))

    def mean(self) -> Tensor:
        """Return the weighted mean, (batch, channel, *size). The sums are divided in place, so call this once.

        Raises:
            ShapeError: no window covers a voxel.
        """
        missing = int((self._weights == 0).sum())
        if missing:
            raise ShapeError(
                f"{missing} voxels that no window covers",
                "every voxel needs one",
                "Take a smaller step between windows.",
            )
        return self._sums.div_(self._weights)


def fused(sums: Tensor, window: Tensor, weight: Tensor) -> bool:
    """Return True if the Triton kernel can add the window: all tensors on one GPU, no gradient needed, at most three
    axes."""
    together = sums.device == window.device == weight.device
    wanted = torch.is_grad_enabled() and (window.requires_grad or weight.requires_grad)
    return together and not wanted and weight.ndim <= 3 and triton_unavailable_reason(sums) is None


def check_window(window: Tensor, channels: int, weight: Tensor) -> None:
    """Refuse a window whose shape is not (channels, *weight.shape)."""
    if window.shape != (channels, *weight.shape):
        raise ShapeError(
            f"a window of {tuple(window.shape)}",
            f"{(channels, *weight.shape)} is needed, channels first and then the size of the weights",
            "Give every window the same channels and size.",
        )


def box(origin: Sequence[int], roi: Sequence[int]) -> tuple[slice, ...]:
    """Return the slices of the image that a window at ``origin`` covers."""
    return tuple(slice(start, start + length) for start, length in zip(origin, roi, strict=True))
