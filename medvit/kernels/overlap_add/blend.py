"""Windows added up over a whole image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medvit.errors import ShapeError
from medvit.kernels.triton_support import triton_unavailable_reason

__all__ = ["Blend", "box", "check_window", "fused"]


class Blend:
    """Windows added one at a time; the weighted mean of all of them at the end.

    Args:
        size: of the image in voxels, (axis,).
        channels: of the windows.
        weight: (*roi), positive: how much each voxel of a window counts.
        batch: images blended side by side; windows lie at the same places in each.
        device: where the sums lie; None for the weight's device.
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
            ShapeError: a window of another size or number of channels, or one that does not fit into the image.
        """
        check_window(window, self._sums.shape[1], self._weight)
        at = box(origin, self._weight.shape)
        place = self._sums[image][(slice(None), *at)]
        if place.shape != window.shape:
            raise ShapeError(
                f"Found a window of {tuple(self._weight.shape)} at {tuple(origin)} in an image of {tuple(self._weights.shape)}; "
                "it must lie within. Pad the image, or correct the origin."
            )
        if fused(place, window, self._weight):
            from medvit.kernels.overlap_add import triton

            triton.accumulate(place, self._weights[at] if image == 0 else None, window, self._weight)
            return
        # product, then sum, each rounded, as MONAI does it: a fused multiply-add gives other last digits
        place.add_((window * self._weight).to(place.device))
        if image == 0:
            self._weights[at].add_(self._weight.to(place.device))

    def mean(self) -> Tensor:
        """(batch, channel, *size): the weighted mean. The sums are divided in place, so ask once.

        Raises:
            ShapeError: a voxel that no window covers.
        """
        missing = int((self._weights == 0).sum())
        if missing:
            raise ShapeError(
                f"Found {missing} voxels that no window covers; every voxel needs one. Take a smaller step between windows."
            )
        return self._sums.div_(self._weights)


def fused(sums: Tensor, window: Tensor, weight: Tensor) -> bool:
    """Whether one kernel can add the window: all on one GPU, no gradient asked for, up to three axes."""
    together = sums.device == window.device == weight.device
    wanted = torch.is_grad_enabled() and (window.requires_grad or weight.requires_grad)
    return together and not wanted and weight.ndim <= 3 and triton_unavailable_reason(sums) is None


def check_window(window: Tensor, channels: int, weight: Tensor) -> None:
    """Refuse a window that is not (channels, *weight's size)."""
    if window.shape != (channels, *weight.shape):
        raise ShapeError(
            f"Found a window of {tuple(window.shape)}; {(channels, *weight.shape)} is needed, channels first and then the size of "
            "the weights. Give every window the same channels and size."
        )


def box(origin: Sequence[int], roi: Sequence[int]) -> tuple[slice, ...]:
    """Where a window of this size lies."""
    return tuple(slice(start, start + length) for start, length in zip(origin, roi, strict=True))
