"""Inference with a 2-D network over a volume, slice by slice."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import Any

import torch
from torch import Tensor

from medvit.errors import ShapeError
from medvit.inference.monai_inferer import register_inferer
from medvit.io import plain_tensor
from medvit.progress import Progress

__all__ = ["SliceWise"]


@register_inferer
class SliceWise:
    """A MONAI inferer that runs a 2-D network on each slice of a volume, optionally with neighbouring slices as
    channels.

    Args:
        axis: spatial axis perpendicular to the slices: 0, 1 or 2 for i, j, k.
        context: number of neighbours on each side that are added as channels (2.5-D); beyond the ends of the volume the
            first or last slice is repeated.
        batch_size: number of slices per call of the network.
        views: 1, or 4 to average over each slice and its mirror images along rows, columns and both. This takes four
            times the time and reduces the error (the geometric self-ensemble of Lim et al., arXiv 1707.02921, section
            3.4; its four transposed views did not help here).

    Raises:
        ShapeError: an invalid axis, context, batch size or number of views, or an input that is not a volume.

    Examples:
        >>> import torch
        >>> from medvit.inference import SliceWise
        >>> volume = torch.rand(1, 1, 4, 4, 3)
        >>> SliceWise(axis=2)(volume, lambda slices: slices + 1).shape
        torch.Size([1, 1, 4, 4, 3])
    """

    def __init__(self, axis: int = 2, context: int = 0, batch_size: int = 1, views: int = 1) -> None:
        if axis not in (0, 1, 2) or context < 0 or batch_size < 1 or views not in (1, 4):
            raise ShapeError(
                f"axis {axis}, context {context}, batch_size {batch_size} and views {views}",
                "axis must be 0, 1 or 2, context at least 0, batch_size at least 1, views 1 or 4",
                "Axis 2 with context 0 and 1 view is usual.",
            )
        self.axis = axis
        self.context = context
        self.batch_size = batch_size
        self.views = views
        self.precision = "fp32"

    def __call__(
        self,
        inputs: Tensor,
        network: Callable[..., Tensor],
        *args: Any,
        progress: Progress | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Run the network on every slice and stack the outputs.

        Args:
            inputs: (batch, channel, i, j, k).
            network: takes (slice, channel · (2 · context + 1), height, width), neighbours in order, each with all its
                channels; returns (slice, channel, height, width).
            progress: receives the number of finished calls; can cancel between them.

        Returns:
            (batch, channel, i, j, k).
        """
        if inputs.ndim != 5 or 0 in inputs.shape:
            raise ShapeError(
                f"an input of shape {tuple(inputs.shape)}",
                "(batch, channel, i, j, k) with at least one voxel is needed",
                "Add the missing axes.",
            )
        volume = plain_tensor(inputs).movedim(self.axis + 2, 1)  # (batch, slice, channel, height, width)
        batch, depth = volume.shape[:2]
        calls = ceil(batch * depth / self.batch_size)
        out: Tensor | None = None
        for done, first in enumerate(range(0, batch * depth, self.batch_size)):
            if progress is not None:
                progress.report("infer", done, calls)
            at = range(first, min(first + self.batch_size, batch * depth))
            slices = torch.stack([self._with_neighbours(volume[n // depth], n % depth) for n in at])
            part = self._answer(slices, lambda x: network(x, *args, **kwargs))
            if out is None:
                out = part.new_empty(batch * depth, *part.shape[1:])
            out[first : first + len(part)] = part
        if progress is not None:
            progress.report("infer", calls, calls)
        assert out is not None
        return out.reshape(batch, depth, *out.shape[1:]).movedim(1, self.axis + 2)

    def _answer(self, slices: Tensor, network: Callable[[Tensor], Tensor]) -> Tensor:
        if self.views == 1:
            return network(slices)
        axes: tuple[tuple[int, ...], ...] = ((), (2,), (3,), (2, 3))
        return torch.stack([network(slices.flip(along)).flip(along) for along in axes]).mean(0)

    def _with_neighbours(self, volume: Tensor, at: int) -> Tensor:
        if not self.context:
            return volume[at]
        near = torch.arange(at - self.context, at + self.context + 1).clamp(0, len(volume) - 1)
        return volume[near.to(volume.device)].flatten(0, 1)
