"""Labels from overlapping windows, plane by plane: only the sums of a few planes are in memory, never those of the
image."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from medvit.errors import ShapeError
from medvit.kernels.overlap_add.blend import box, check_window, fused

__all__ = ["LabelStream", "argmax_of", "sigmoid_above"]

_PLANES = 4
"""Number of planes labelled at a time; it limits the memory needed beside the sums."""

Choice = Callable[[Tensor, Tensor], Tensor]
"""Function from weighted sums (channel, plane, *rest) and weights (plane, *rest) to labels (channel or 1, plane,
*rest)."""


def argmax_of(sums: Tensor, weights: Tensor) -> Tensor:
    """Return the channel with the largest sum; all channels of a voxel have the same weight, so no division is
    needed."""
    return sums.argmax(0, keepdim=True)


def sigmoid_above(threshold: float) -> Choice:
    """Make a function that marks, for each channel, the voxels whose weighted mean has a sigmoid above a threshold.

    Raises:
        ShapeError: the threshold is not in (0, 1).
    """
    if not 0 < threshold < 1:
        raise ShapeError(f"a threshold of {threshold}", "it must lie between 0 and 1", "0.5 is usual.")
    edge = float(torch.logit(torch.tensor(threshold, dtype=torch.float64)))
    return lambda sums, weights: sums > edge * weights


class LabelStream:
    """Accumulator of windows that come in the order of their first axis, with labels at the end.

    The sums are a ring buffer of as many planes as a window has; plane ``x`` is at ``x`` modulo the window's length.
    Once the next window starts after a plane, that plane is complete: its labels are written and its place in the ring
    is cleared. So the memory is channel x (length of a window) x (the other axes), whatever the length of the image,
    and the labels.

    Args:
        size: (axis,) image size in voxels.
        channels: number of channels of a window.
        weight: (*roi) positive; planes are along its first axis.
        choice: function from sums and weights to labels.
        masks: number of channels of the labels: 1, or that of the windows.
    """

    def __init__(
        self, size: Sequence[int], channels: int, weight: Tensor, choice: Choice = argmax_of, masks: int = 1
    ) -> None:
        self._size = tuple(size)
        self._weight = weight
        self._choice = choice
        rest = self._size[1:]
        self._sums = weight.new_zeros(channels, weight.shape[0], *rest)
        self._weights = weight.new_zeros(weight.shape[0], *rest)
        self._labels = torch.empty(
            (masks, *self._size), dtype=torch.uint8 if channels <= 256 else torch.int16, device=weight.device
        )
        self._done = 0

    def add(self, window: Tensor, origin: Sequence[int]) -> None:
        """Add a window's values, (channel, *roi), times the weight.

        Raises:
            ShapeError: the window has another size or number of channels, is partly outside the image, or starts before
                a finished plane.
        """
        check_window(window, self._sums.shape[0], self._weight)
        roi = tuple(self._weight.shape)
        first = origin[0]
        inside = all(o >= 0 and o + r <= s for o, r, s in zip(origin, roi, self._size, strict=True))
        if first < self._done or not inside:
            raise ShapeError(
                (
                    f"a window of {roi} at {tuple(origin)} in an image of {self._size} of which {self._done} planes are "
                    "finished"
                ),
                "windows must lie within and come in the order of their first axis",
                "Sort the windows by it.",
            )
        self._finish(first)
        turn = first % roi[0]
        rest = box(origin[1:], roi[1:])
        if fused(self._sums, window, self._weight):
            from medvit.kernels.overlap_add import triton

            whole = (slice(None), *rest)
            triton.accumulate(self._sums[(slice(None), *whole)], self._weights[whole], window, self._weight, turn)
            return
        weighted = window * self._weight
        for ring, part in (
            (slice(turn, None), slice(None, roi[0] - turn)),
            (slice(0, turn), slice(roi[0] - turn, None)),
        ):
            self._sums[(slice(None), ring, *rest)] += weighted[:, part]
            self._weights[(ring, *rest)] += self._weight[part]

    def labels(self) -> Tensor:
        """Finish all planes and return the labels, (mask, *size), uint8 or, above 256 channels, int16.

        Raises:
            ShapeError: no window covers a voxel.
        """
        self._finish(self._size[0])
        return self._labels

    def _finish(self, end: int) -> None:
        """Label the planes before ``end`` and clear their place in the ring."""
        length = self._weight.shape[0]
        while self._done < end:
            at = self._done % length
            planes = min(_PLANES, end - self._done, length - at)
            weights = self._weights[at : at + planes]
            missing = int((weights == 0).sum())
            if missing:
                raise ShapeError(
                    f"{missing} voxels that no window covers in planes {self._done} to {self._done + planes - 1}",
                    "every voxel needs one",
                    "Take a smaller step between windows.",
                )
            sums = self._sums[:, at : at + planes]
            self._labels[:, self._done : self._done + planes] = self._choice(sums, weights)
            sums.zero_()
            weights.zero_()
            self._done += planes
