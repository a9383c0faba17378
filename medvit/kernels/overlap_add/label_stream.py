"""Labels from overlapping windows, finished while they come: the sums of a few planes in memory, never those of an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from medvit.errors import ShapeError
from medvit.kernels.overlap_add.blend import box, check_window, fused

__all__ = ["LabelStream", "argmax_of", "sigmoid_above"]

_PLANES = 4
"""Planes decided at a time, which bounds what deciding needs beside the sums."""

Choice = Callable[[Tensor, Tensor], Tensor]
"""Weighted sums (channel, plane, *rest) and weights (plane, *rest) to labels (channel or 1, plane, *rest), of any type."""


def argmax_of(sums: Tensor, weights: Tensor) -> Tensor:
    """The channel with the largest sum: a voxel's weight is the same for all channels, so no division is needed."""
    return sums.argmax(0, keepdim=True)


def sigmoid_above(threshold: float) -> Choice:
    """Where the sigmoid of the weighted mean is above a threshold in (0, 1), channel by channel; without dividing.

    Raises:
        ShapeError: a threshold that nothing or everything is above.
    """
    if not 0 < threshold < 1:
        raise ShapeError(f"Found a threshold of {threshold}; it must lie between 0 and 1. 0.5 is usual.")
    edge = float(torch.logit(torch.tensor(threshold, dtype=torch.float64)))
    return lambda sums, weights: sums > edge * weights


class LabelStream:
    """Windows added one at a time, in the order of their first axis; labels at the end.

    The sums of as many planes as a window has lie in a ring, plane ``x`` at ``x`` modulo the window's length. Once the next
    window starts beyond a plane, nothing more comes for it: its labels are written and its place in the ring is cleared.
    So the memory is channel x (a window's length) x (the other axes), whatever the length of the image, and the labels.

    Args:
        size: of the image in voxels, (axis,).
        channels: of the windows.
        weight: (*roi), positive; planes lie along its first axis.
        choice: what makes labels of sums and weights.
        masks: how many channels labels have: 1, or as many as the windows.
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
            ShapeError: a window of another size or number of channels, one that does not fit into the image, or one that
                starts before a plane that is finished.
        """
        check_window(window, self._sums.shape[0], self._weight)
        roi = tuple(self._weight.shape)
        first = origin[0]
        inside = all(o >= 0 and o + r <= s for o, r, s in zip(origin, roi, self._size, strict=True))
        if first < self._done or not inside:
            raise ShapeError(
                f"Found a window of {roi} at {tuple(origin)} in an image of {self._size} of which {self._done} planes are finished; "
                "windows must lie within and come in the order of their first axis. Sort them by it."
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
        """(mask, *size) uint8, int16 above 256 channels: all planes, finished.

        Raises:
            ShapeError: a voxel that no window covers.
        """
        self._finish(self._size[0])
        return self._labels

    def _finish(self, end: int) -> None:
        """Decide the planes before ``end`` and clear their place."""
        length = self._weight.shape[0]
        while self._done < end:
            at = self._done % length
            planes = min(_PLANES, end - self._done, length - at)
            weights = self._weights[at : at + planes]
            missing = int((weights == 0).sum())
            if missing:
                raise ShapeError(
                    f"Found {missing} voxels that no window covers in planes {self._done} to {self._done + planes - 1}; every voxel "
                    "needs one. Take a smaller step between windows."
                )
            sums = self._sums[:, at : at + planes]
            self._labels[:, self._done : self._done + planes] = self._choice(sums, weights)
            sums.zero_()
            weights.zero_()
            self._done += planes
