"""Test-time averaging over a window and its mirror image, for anatomy that is nearly symmetric."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medvit.errors import ShapeError

__all__ = ["FlipAveraging"]


@dataclass(frozen=True)
class FlipAveraging:
    """Settings to mirror windows and logits, for a network trained on patients and on their mirror images.

    The errors of the network differ between both images, so the mean of the logits is more accurate than either
    (test-time augmentation; F. Isensee et al., nnU-Net, Nature Methods 18, 2021, mirrors likewise). Each window runs
    twice.

    Attributes:
        axis: spatial axis of a window that runs from one side of the patient to the other.
        negated_channels: input channels with a signed distance from the middle along this axis; their sign changes.
        swapped_classes: pairs of classes that are mirror images of each other; other classes are symmetric.

    Raises:
        ShapeError: a class is in two pairs.

    Examples:
        >>> import torch
        >>> from medvit.inference import FlipAveraging
        >>> run = FlipAveraging(axis=0).both(lambda windows: windows)
        >>> run(torch.tensor([[[1.0, 3.0]]]))  # a network without positional preference is unchanged
        tensor([[[1., 3.]]])
    """

    axis: int = 0
    negated_channels: Sequence[int] = ()
    swapped_classes: Sequence[Sequence[int]] = ()

    def __post_init__(self) -> None:
        named = [number for pair in self.swapped_classes for number in pair]
        if len(set(named)) != len(named) or any(len(pair) != 2 for pair in self.swapped_classes):
            raise ShapeError(
                f"the classes {list(self.swapped_classes)} to exchange",
                "each pair must hold two classes, and no class may be in two pairs",
                "Name each class in one pair.",
            )

    def both(self, network: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """Make a function that returns the mean logits of windows (window, channel, *roi) and of their mirror images.

        Raises:
            ShapeError: when called, if windows or logits lack a configured axis, channel or class.
        """

        def mean(windows: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            mirrored = self._windows(windows)
            first = network(windows, *args, **kwargs).clone()  # a graph may reuse the memory of its output
            second = network(mirrored, *args, **kwargs)
            turned = torch.flip(second, (self.axis + 2,))[:, self._order(second)]
            return first.add_(turned).div_(2)

        return mean

    def _windows(self, windows: Tensor) -> Tensor:
        if windows.ndim < self.axis + 3 or windows.shape[1] <= max(self.negated_channels, default=-1):
            raise ShapeError(
                f"windows of {tuple(windows.shape)}",
                f"axis {self.axis} and channels {list(self.negated_channels)} are to be mirrored",
                "Correct 'mirrored' of the inferer.",
            )
        mirrored = torch.flip(windows, (self.axis + 2,))  # torch.flip copies, so in-place changes are safe
        for channel in self.negated_channels:
            mirrored[:, channel].neg_()
        return mirrored

    def _order(self, logits: Tensor) -> list[int]:
        order = list(range(logits.shape[1]))
        for one, other in self.swapped_classes:
            if max(one, other) >= len(order):
                raise ShapeError(
                    f"{len(order)} classes, of which {one} and {other} are to be exchanged",
                    remedy="Correct 'mirrored' of the inferer.",
                )
            order[one], order[other] = other, one
        return order
