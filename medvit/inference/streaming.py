"""Postprocessing of logits plane by plane, so that the logits of a whole image are never in memory.

The inferer passes finished planes; each is resampled and labelled as soon as the next one is there. Where a step before
the resampling needs the labels of the whole image (``KeepLargestComponentLogitsd``), planes are kept in a temporary
file until then.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from medvit.io import GridImage
from medvit.kernels.resample_argmax import resample_argmax
from medvit.transforms import ArgmaxOnSourceGridd, KeepLargestComponentLogitsd, NetworkGrid, stray_components

if TYPE_CHECKING:
    from monai.data import MetaTensor

__all__ = ["PlanePostprocess", "SlabArgmax", "StreamingPostprocess", "steps_of"]

_PLANES = 24
"""Number of planes resampled at a time: enough to make the overhead of a call small."""


class SlabArgmax:
    """Argmax on the source grid from planes of logits in sequence, equal to ``resample_argmax`` of all planes.

    Args:
        grid: relation between network grid and source grid.
    """

    def __init__(self, grid: NetworkGrid) -> None:
        self._grid = grid
        self._held: list[Tensor] = []
        self._first = 0
        self._out: Tensor | None = None
        long, box, start = grid.grid_shape[0], grid.size[0], grid.start[0]
        position = (torch.arange(grid.source_shape[0], dtype=torch.float64) + 0.5) * (long / grid.source_shape[0]) - 0.5
        position = position.clamp(0, long - 1) - start
        self._inside = (position >= -0.5) & (position <= box - 0.5)
        self._low = position.clamp(0, box - 1).floor().long()
        self._high = (self._low + 1).clamp(max=box - 1)

    def add_planes(self, planes: Tensor) -> None:
        """Add the next planes, (class, plane, *rest)."""
        self._held.append(planes.cpu())
        held = sum(part.shape[1] for part in self._held)
        if held >= _PLANES or self._first + held == self._grid.size[0]:
            self._decide()

    def labels(self) -> Tensor:
        """Return the labels, (depth, height, width) of the source along RAS axes, after all planes were added."""
        assert self._out is not None
        return self._out

    def _decide(self) -> None:
        logits = torch.cat(self._held, 1)
        end = self._first + logits.shape[1]
        rows = torch.nonzero(self._inside & (self._low >= self._first) & (self._high < end))[:, 0]
        grid = self._grid
        part = resample_argmax(
            logits,
            out_shape=grid.source_shape,
            grid_shape=grid.grid_shape,
            start=(grid.start[0] + self._first, *grid.start[1:]),
        )
        if self._out is None:
            self._out = torch.zeros_like(part)
        self._out[rows] = part[rows]
        # the last plane is kept: an output row between it and the next plane needs both
        self._held, self._first = [logits[:, -1:].clone()], end - 1


@dataclass(frozen=True)
class StreamingPostprocess:
    """A bundle's postprocessing for planes of logits.

    Attributes:
        keep: step that keeps the largest component of each class, or None; it needs the labels of the whole image.
        argmax: step that computes labels on the source grid.
    """

    keep: KeepLargestComponentLogitsd | None
    argmax: ArgmaxOnSourceGridd

    def run(self, stream: Callable[[Callable[[Tensor], None]], Tensor], image: GridImage | MetaTensor) -> Tensor:
        """Compute labels on the source grid, equal to those of the steps on all logits.

        Args:
            stream: function that passes the planes, (class, plane, *rest), to its argument and returns the labels (1,
                1, *spatial).
            image: the preprocessed image.
        """
        grid = NetworkGrid.unpack(torch.as_tensor(image.meta["network_grid"]))
        slabs = SlabArgmax(grid)
        if self.keep is None:
            stream(slabs.add_planes)
        else:
            with tempfile.TemporaryFile(prefix="medvit-") as file:
                self._through_file(stream, file, slabs)
        made: Tensor = self.argmax.on_source(slabs.labels(), image)
        return made

    def _through_file(self, stream: Callable[[Callable[[Tensor], None]], Tensor], file: Any, slabs: SlabArgmax) -> None:
        shape: list[tuple[int, ...]] = []

        def write(planes: Tensor) -> None:
            moved = (
                planes.cpu().movedim(1, 0).float().contiguous()
            )  # (plane, class, *rest), so that planes are consecutive in the file
            shape.append(tuple(moved.shape[1:]))
            file.write(moved.numpy().tobytes())

        best = stream(write)[0, 0].cpu().numpy()
        file.flush()
        assert self.keep is not None
        stray = torch.from_numpy(stray_components(best, self.keep.classes))
        stored = np.memmap(file, np.float32, "r", shape=(len(best), *shape[0]))
        for first in range(0, len(best), _PLANES):
            planes = torch.from_numpy(np.array(stored[first : first + _PLANES])).movedim(1, 0)
            at = stray[first : first + _PLANES]
            planes[0][at] = planes.amax(0)[at] + 1
            slabs.add_planes(planes)
        del stored


@dataclass(frozen=True)
class PlanePostprocess:
    """A bundle's postprocessing of one step that works plane by plane by itself (``takes_planes``).

    Attributes:
        step: the step; ``planes(image)`` returns an object with ``add_planes`` and ``labels``.
        keep: None, as no step needs the labels of the whole image.
    """

    step: Any
    keep: None = None

    def run(self, stream: Callable[[Callable[[Tensor], None]], Tensor], image: Any) -> Tensor:
        """Compute labels on the source grid; the arguments are those of ``StreamingPostprocess.run``."""
        sink = self.step.planes(image)
        stream(sink.add_planes)
        made: Tensor = sink.labels()
        return made


def steps_of(postprocessing: Any) -> StreamingPostprocess | PlanePostprocess | None:
    """Return a bundle's postprocessing for planes of logits if its steps allow that, else None."""
    found = list(getattr(postprocessing, "transforms", ()))
    if any(getattr(step, "keys", None) != ("pred",) for step in found):
        return None
    if len(found) == 1 and getattr(found[0], "takes_planes", False):
        return PlanePostprocess(found[0])
    kinds = [type(step) for step in found]
    if kinds == [ArgmaxOnSourceGridd]:
        return StreamingPostprocess(None, found[0])
    return (
        StreamingPostprocess(found[0], found[1])
        if kinds == [KeepLargestComponentLogitsd, ArgmaxOnSourceGridd]
        else None
    )
