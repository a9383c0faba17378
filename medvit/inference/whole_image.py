"""Inference on pictures: in one piece where that fits, in windows where it does not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from medvit.inference.sliding_window import OnBackend, SlidingWindow
from medvit.inference.tiling import Tiling, tile
from medvit.progress import Progress

__all__ = ["WholeImage"]


class WholeImage(SlidingWindow):
    """A MONAI inferer: one call of the network for a picture up to ``roi_size``, blended windows beyond.

    A network that takes any size needs no window around a small picture, and none of its edges; a window bounds the
    memory that a large one takes. Arguments and errors as ``SlidingWindow``.
    """

    def __call__(
        self,
        inputs: Tensor,
        network: Callable[..., Tensor],
        *args: Any,
        progress: Progress | None = None,
        on_backend: OnBackend | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Logits (batch, class, row, column) for inputs (batch, channel, row, column)."""
        if self.windows(inputs.shape[2:]) > 1:
            return super().__call__(inputs, network, *args, progress=progress, on_backend=on_backend, **kwargs)
        if progress is not None:
            progress.report("infer", 0, 1)
        logits = network(inputs, *args, **kwargs)
        if progress is not None:
            progress.report("infer", 1, 1)
        return logits

    def _tile(self, spatial: Sequence[int]) -> Tiling:
        tiling = super()._tile(spatial)
        return tile(spatial, spatial, 0) if len(tiling.origins) == 1 else tiling
