"""nnU-Net's windows: evenly spread positions, its Gaussian, and mirroring along every combination of axes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, product
from math import ceil
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medvit.errors import ShapeError
from medvit.inference import SlidingWindow
from medvit.inference.sliding_window import OnBackend, PlaneConsumer
from medvit.inference.tiling import Tiling
from medvit.inference.window_plan import InferenceRun
from medvit.progress import Progress

__all__ = ["AxisMirroring", "NnunetWindows", "window_starts"]


@dataclass(frozen=True)
class AxisMirroring:
    """Settings to average the logits of a window over its mirror images along all combinations of axes.

    Attributes:
        axes: spatial axes of a window that are mirrored; n axes take 2**n runs of the network.

    Raises:
        ShapeError: no axis, a repeated axis, or a negative one.

    Examples:
        >>> import torch
        >>> from medvit.interop.nnunet import AxisMirroring
        >>> AxisMirroring(axes=(0,)).both(lambda windows: windows * torch.tensor([1.0, 3.0]))(torch.ones(1, 1, 2))
        tensor([[[2., 2.]]])
    """

    axes: Sequence[int]

    def __post_init__(self) -> None:
        if not self.axes or len(set(self.axes)) != len(self.axes) or min(self.axes) < 0:
            raise ShapeError(
                f"the axes {list(self.axes)} to mirror", "one or more different axes are needed", "Correct 'mirrored'."
            )

    @property
    def runs(self) -> int:
        """Number of runs of the network for each window."""
        return int(2 ** len(self.axes))

    def both(self, network: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """Make a function that returns the mean logits of windows (window, channel, *roi) and of their mirror images."""
        turns = [turn for count in range(1, len(self.axes) + 1) for turn in combinations(self.axes, count)]

        def mean(windows: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            total = network(windows, *args, **kwargs).clone()  # a graph may reuse the memory of its output
            for turn in turns:
                axes = [axis + 2 for axis in turn]
                total += torch.flip(network(torch.flip(windows, axes), *args, **kwargs), axes)
            return total.div_(len(turns) + 1)

        return mean


class NnunetWindows(SlidingWindow):
    """A sliding window with nnU-Net's positions and Gaussian; else as ``SlidingWindow``.

    Args:
        patch_size: window size in voxels; two numbers run slice by slice along the first axis.
        step: step between windows as a share of the window.
        peak: largest weight of the Gaussian.
        exclusive: False where the heads of the network are overlapping regions.
        options: further settings of ``SlidingWindow``.

    Examples:
        >>> from medvit.interop.nnunet import NnunetWindows
        >>> NnunetWindows((4, 4, 4)).windows((4, 4, 7))
        3
    """

    few_parameters = True

    def __init__(
        self,
        patch_size: Sequence[int],
        step: float = 0.5,
        *,
        peak: float = 10.0,
        exclusive: bool = True,
        **options: Any,
    ) -> None:
        planes = (1,) * (3 - len(patch_size))
        super().__init__((*planes, *(int(n) for n in patch_size)), 1.0 - step, **options)
        self.step = step
        self.peak = peak
        self.exclusive = exclusive
        self.takes_region = False
        self.rounding = False

    def rounded(self) -> NnunetWindows:
        """Return a copy that adds the logits of windows in half precision, as nnU-Net does, by the eager backend."""
        other = copy.copy(self)
        other.rounding, other.backend = True, "eager"
        return other

    def stream(self, inputs: Tensor, network: Any, add_planes: PlaneConsumer, *args: Any, **kwargs: Any) -> Tensor:
        """Pass planes of logits as ``SlidingWindow.stream``; rounded ones are passed together, in half precision."""
        if not self.rounding:
            return super().stream(inputs, network, add_planes, *args, **kwargs)
        folds = list(network.members()) if hasattr(network, "members") else [network]
        total: Tensor | None = None
        for fold in folds:
            made = self._half(inputs, fold, *args, **kwargs)
            total = made if total is None else total.add_(made)
        assert total is not None
        mean = total.div_(len(folds)) if len(folds) > 1 else total
        add_planes(mean)
        return mean.argmax(0)[None, None]

    def _half(
        self,
        inputs: Tensor,
        network: Any,
        progress: Progress | None = None,
        where: Tensor | None = None,
        on_backend: OnBackend | None = None,
    ) -> Tensor:
        """Return the mean logits of all windows, (class, *spatial) in half precision, rounded after each window."""
        image, tiling = self._prepared(inputs, {})
        weight = self._weight(tiling, image)
        work = InferenceRun(network=network, progress=progress, where=where, on_backend=on_backend)
        sums: Tensor | None = None
        weights = torch.zeros(tiling.padded, dtype=torch.half)
        for _, window, logits in self._logits(image, tiling, work):
            if sums is None:
                sums = torch.zeros((len(logits), *tiling.padded), dtype=torch.half)
            box = tiling.box(window)
            sums[(slice(None), *box)] += (logits * weight).cpu()
            weights[box] += weight.half().cpu()
        assert sums is not None
        return tiling.crop(sums.div_(weights)).clone()

    def _tile(self, spatial: Sequence[int]) -> Tiling:
        assert isinstance(self.roi_size, tuple)
        padded = tuple(max(s, r) for s, r in zip(spatial, self.roi_size, strict=True))
        starts = [window_starts(size, roi, self.step) for size, roi in zip(padded, self.roi_size, strict=True)]
        return Tiling(
            spatial=tuple(spatial),
            roi=self.roi_size,
            padded=padded,
            before=tuple((p - s) // 2 for s, p in zip(spatial, padded, strict=True)),
            origins=torch.tensor(list(product(*starts))),
        )

    def _weight(self, tiling: Tiling, image: Tensor) -> Tensor:
        return _gaussian(tiling.roi, self.peak).to(torch.device(self.sw_device or image.device))


def window_starts(size: int, roi: int, step: float) -> list[int]:
    """Return the first voxel of each window along an axis, evenly spread.

    Args:
        size: length of the axis, at least that of a window.
        roi: length of a window.
        step: largest step as a share of the window.

    Examples:
        >>> from medvit.interop.nnunet.windows import window_starts
        >>> window_starts(110, 64, 0.5)
        [0, 23, 46]
    """
    count = ceil((size - roi) / (roi * step)) + 1
    apart = (size - roi) / (count - 1) if count > 1 else 0.0
    return [round(apart * number) for number in range(count)]


@lru_cache(maxsize=8)
def _gaussian(roi: tuple[int, ...], peak: float) -> Tensor:
    """Return nnU-Net's weight of each voxel of a window: half precision, without zeros."""
    from scipy.ndimage import gaussian_filter

    drawn = np.zeros(roi)
    drawn[tuple(n // 2 for n in roi)] = 1
    drawn = gaussian_filter(drawn, [n / 8 for n in roi], 0, mode="constant", cval=0)
    weight = torch.from_numpy(drawn)
    weight = (weight / (weight.max() / peak)).half().float()
    weight[weight == 0] = weight[weight > 0].min()
    return weight
