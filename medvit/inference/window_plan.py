"""One run of a network over an image: what it is made of, and which windows it needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from monai.data.utils import compute_importance_map
from torch import Tensor

from medvit.errors import ImageError, ShapeError
from medvit.inference.backends import SelectedBackend
from medvit.inference.tiling import Tiling
from medvit.kernels.occupied_windows import constant_groups, occupied_windows
from medvit.progress import Progress

__all__ = [
    "OCCUPIED",
    "UNTOUCHED",
    "InferenceRun",
    "PlaneSink",
    "background_logits",
    "background_outside",
    "importance_map",
    "touched_windows",
    "window_groups",
]

OCCUPIED, UNTOUCHED = -1, -2
"""Groups of windows: one that has to run, one that touches nothing of what was asked for."""


@dataclass(frozen=True)
class InferenceRun:
    """A network, its arguments beside windows, its observers and where its answer matters (see ``SlidingWindow``)."""

    network: Callable[..., Tensor]
    progress: Progress | None = None
    where: Tensor | None = None
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    on_backend: Callable[[SelectedBackend], object] | None = None


class PlaneSink:
    """A choice of labels that also gives the mean logits away, plane by plane, without the padding.

    Args:
        tiling: the windows' places.
        add_planes: called with (class, plane, *rest), in the planes' order.
        where: as for ``SlidingWindow``, for one image.
    """

    def __init__(self, tiling: Tiling, add_planes: Callable[[Tensor], None], where: Tensor | None) -> None:
        self._tiling = tiling
        self._add_planes = add_planes
        self._where = where
        self._at = -tiling.before[0]

    def __call__(self, sums: Tensor, weights: Tensor) -> Tensor:
        """Weighted sums (class, plane, *rest) to labels (1, plane, *rest)."""
        low, high = max(0, -self._at), min(sums.shape[1], self._tiling.spatial[0] - self._at)
        if low < high:
            mean = sums[:, low:high] / weights[low:high]
            for axis, (first, size) in enumerate(
                zip(self._tiling.before[1:], self._tiling.spatial[1:], strict=True), 2
            ):
                mean = mean.narrow(axis, first, size)
            at = slice(self._at + low, self._at + high)
            self._add_planes(mean if self._where is None else background_outside(mean[None], self._where[:1, :, at])[0])
        self._at += sums.shape[1]
        return sums.argmax(0, keepdim=True)


@lru_cache(maxsize=8)
def importance_map(roi: tuple[int, ...], mode: str, sigma: tuple[float, ...] | float) -> Tensor:
    """How much each voxel of a window counts, (*roi), as MONAI has it."""
    weight: Tensor = compute_importance_map(roi, mode=mode, sigma_scale=sigma)
    return weight


def touched_windows(image: Tensor, tiling: Tiling, where: Tensor) -> Tensor:
    """(batch, window) bool: whether a window holds a voxel at which the answer matters.

    Raises:
        ShapeError: a mask of another size than the image. ImageError: an empty one.
    """
    wanted = (len(image), 1, *tiling.spatial)
    if tuple(where.shape) != wanted or where.dtype != torch.bool:
        raise ShapeError(
            f"a mask of {tuple(where.shape)}, {where.dtype}, for an image of {(len(image), *tiling.spatial)}",
            f"{wanted} of torch.bool is needed",
            "Make it from the image that is given.",
        )
    if not bool(where.any()):
        raise ImageError(
            "a region of interest without a voxel in the image", "one is needed", "Check --roi-crop, or leave it out."
        )
    padded = tiling.pad(where.to(torch.uint8), "constant", 0)
    boxes = [(slice(None), slice(0, 1), *tiling.box(n)) for n in range(len(tiling.origins))]
    return torch.stack([padded[box].flatten(1).any(1) for box in boxes], 1)


def window_groups(image: Tensor, tiling: Tiling, work: InferenceRun, reuse: bool) -> list[int]:
    """For each window of each image: ``OCCUPIED`` if it has to run, ``UNTOUCHED`` if it need not, else a number that equal
    constant windows share, where they may be run once (``reuse``).
    """
    if reuse:
        occupied = occupied_windows(image, tiling.roi, tiling.origins)
        groups = constant_groups(image, tiling.origins, occupied).flatten().tolist()
    else:
        groups = [OCCUPIED] * (len(image) * len(tiling.origins))
    if work.where is None:
        return groups
    touched = touched_windows(image, tiling, work.where).flatten().tolist()
    return [group if touches else UNTOUCHED for group, touches in zip(groups, touched, strict=True)]


def background_logits(logits: Tensor) -> Tensor:
    """(class, *roi): background's logit 1, the others' 0.

    Raises:
        ShapeError: a network without a background class.
    """
    if len(logits) < 2:
        raise ShapeError(
            "a network with one channel, which has no background class",
            "a region of interest needs one",
            "Leave --roi-crop out.",
        )
    made = torch.zeros_like(logits)
    made[0] = 1
    return made


def background_outside(logits: Tensor, where: Tensor | None) -> Tensor:
    """Logits (batch, class, *spatial), of which background's is raised above all others outside a mask (batch, 1, *spatial)."""
    if where is None:
        return logits
    outside = ~where.to(logits.device)
    raised = torch.where(outside, logits.amax(1, keepdim=True) + 1, logits[:, :1])
    return torch.cat([raised, logits[:, 1:]], 1)
