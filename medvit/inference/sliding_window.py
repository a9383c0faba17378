"""Sliding-window inference with progress and cancel: so far MONAI's own, told which window it is at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil
from typing import Any

import torch
from monai.inferers import SlidingWindowInferer
from torch import Tensor

from medvit.errors import BackendError, ShapeError
from medvit.progress import Progress

__all__ = ["SlidingWindow"]


class SlidingWindow(SlidingWindowInferer):  # type: ignore[misc]
    """A MONAI inferer: windows of ``roi_size`` blended over the image.

    Args:
        roi_size: window in voxels along each spatial axis; smaller images are padded.
        overlap: share of a window that the next one covers, in [0, 1).
        mode: "gaussian" or "constant" blending.
        sw_batch_size: windows per call of the network.
        backend: "auto" or "eager": the network as it is.
        precision: "fp32".

    Raises:
        ShapeError: an overlap outside [0, 1).
        BackendError: a backend or precision that is not there.
    """

    def __init__(
        self,
        roi_size: Sequence[int],
        overlap: float = 0.5,
        mode: str = "gaussian",
        sw_batch_size: int = 1,
        backend: str = "auto",
        precision: str = "fp32",
        **options: Any,
    ) -> None:
        if not 0 <= overlap < 1:
            raise ShapeError(f"Found an overlap of {overlap}; it must be at least 0 and below 1. 0.5 is usual.")
        if backend not in ("auto", "eager"):
            raise BackendError(f"Found inference backend {backend!r}; only 'eager' is there. Use backend='auto'.")
        if precision != "fp32":
            raise BackendError(f"Found precision {precision!r}; only 'fp32' is there. Leave it out.")
        super().__init__(roi_size, sw_batch_size=sw_batch_size, overlap=overlap, mode=mode, **options)

    def windows(self, spatial: Sequence[int]) -> int:
        """How many windows cover an image of this size."""
        count = 1
        for size, roi in zip(spatial, self.roi_size, strict=True):
            step = max(1, int(roi * (1 - self.overlap)))
            count *= 1 if size <= roi else ceil((size - roi) / step) + 1
        return count

    def __call__(
        self,
        inputs: Tensor,
        network: Callable[..., Tensor],
        *args: Any,
        progress: Progress | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Logits (batch, class, *spatial) for inputs (batch, channel, *spatial)."""
        if progress is None:
            return super().__call__(inputs, network, *args, **kwargs)  # type: ignore[no-any-return]
        total = ceil(self.windows(tuple(inputs.shape[2:])) * inputs.shape[0] / self.sw_batch_size)
        done = 0

        def counted(window: Tensor, *a: Any, **k: Any) -> Tensor:
            nonlocal done
            progress.report("infer", done, total)
            done += 1
            return network(window, *a, **k)

        result: Tensor = super().__call__(inputs, counted, *args, **kwargs)
        progress.report("infer", total, total)
        return torch.as_tensor(result)
