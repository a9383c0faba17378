"""Inference on pictures: in one call where they fit, in windows where they do not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from medvit.inference.sliding_window import OnBackend, SlidingWindow
from medvit.inference.tiling import Tiling, tile
from medvit.progress import Progress

__all__ = ["WholeImage"]


class WholeImage(SlidingWindow):
    """A MONAI inferer that runs the network once on a picture up to ``roi_size``, and on blended windows beyond.

    A network for any size needs no windows on a small picture, and so has no window edges; windows limit the memory of
    a large picture. Arguments and errors as for ``SlidingWindow``.

    Args:
        roi_size: largest size in pixels that runs in one call, and the window size beyond.
        overlap, mode, sw_batch_size, backend, precision, streams, ranges: as for ``SlidingWindow``.
        sigma_scale, padding_mode, cval, sw_device, device, reuse_constant, mirrored: as for ``SlidingWindow``.

    Examples:
        >>> import torch
        >>> from medvit.inference import WholeImage
        >>> WholeImage(roi_size=(64, 64))(torch.rand(1, 3, 20, 30), lambda picture: picture[:, :1]).shape
        torch.Size([1, 1, 20, 30])
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
        """Compute logits (batch, class, row, column) of a picture (batch, channel, row, column)."""
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
