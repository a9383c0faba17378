"""A run of a network over an image: its parts, and the windows that it needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
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
"""Group numbers of windows that must run and of windows outside the requested mask."""

_LEAST = 1e-3
"""Lower limit of a voxel's weight in a window, the limit in MONAI."""


@dataclass(frozen=True, kw_only=True)
class InferenceRun:
    """A network, its arguments beside the windows, its observers and the requested mask (see ``SlidingWindow``)."""

    network: Callable[..., Tensor]
    progress: Progress | None = None
    where: Tensor | None = None
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    on_backend: Callable[[SelectedBackend], object] | None = None


class PlaneSink:
    """A choice of labels that also passes the mean logits on, plane by plane, without the padding.

    Args:
        tiling: positions of the windows.
        add_planes: called with (class, plane, *rest), in the order of the planes.
        where: mask as for ``SlidingWindow``, for one image.
    """

    def __init__(self, tiling: Tiling, add_planes: Callable[[Tensor], None], where: Tensor | None) -> None:
        self._tiling = tiling
        self._add_planes = add_planes
        self._where = where
        self._at = -tiling.before[0]

    def __call__(self, sums: Tensor, weights: Tensor) -> Tensor:
        """Return labels (1, plane, *rest) from weighted sums (class, plane, *rest)."""
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
    """Return the weight of each voxel of a window, (*roi) float32, as MONAI's sliding window weights it.

    Args:
        roi: window size.
        mode: "gaussian": less weight towards the edges, at least 0.001; "constant": 1 everywhere.
        sigma: standard deviation as a share of the window, for all axes or for each.
    """
    if mode == "constant":
        return torch.ones(roi)
    shares = sigma if isinstance(sigma, Sequence) else (sigma,) * len(roi)
    weight = torch.ones(())
    for side, share in zip(roi, shares, strict=True):
        middle = (side - 1) / 2
        distance = torch.arange(-middle, middle + 1, dtype=torch.float32)
        weight = weight[..., None] * torch.exp(distance**2 / (-2 * (side * share) ** 2))
    return weight.clamp_min(max(float(weight.min()), _LEAST))


def touched_windows(image: Tensor, tiling: Tiling, where: Tensor) -> Tensor:
    """Return (batch, window) bool, True for windows that overlap the mask.

    Raises:
        ShapeError: the mask has another size than the image, or is not bool.
        ImageError: the mask is empty.
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
            "a region of interest without a voxel in the image",
            "at least one voxel is needed",
            "Check {roi_crop}, or leave it out.",
            option="roi_crop",
        )
    padded = tiling.pad(where.to(torch.uint8), "constant", 0)
    boxes = [(slice(None), slice(0, 1), *tiling.box(n)) for n in range(len(tiling.origins))]
    return torch.stack([padded[box].flatten(1).any(1) for box in boxes], 1)


def window_groups(image: Tensor, tiling: Tiling, work: InferenceRun, reuse: bool) -> list[int]:
    """Return a group number for each window of each image.

    ``OCCUPIED``: the window must run. ``UNTOUCHED``: it is outside the mask. Other numbers: constant windows with equal
    values have the same number and may run once (only with ``reuse``).
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
    """Return logits (class, *roi) of 1 for background and 0 for other classes.

    Raises:
        ShapeError: the network has no background class.
    """
    if len(logits) < 2:
        raise ShapeError(
            "a network with one channel, which has no background class",
            "a region of interest needs one",
            "Leave {roi_crop} out.",
            option="roi_crop",
        )
    made = torch.zeros_like(logits)
    made[0] = 1
    return made


def background_outside(logits: Tensor, where: Tensor | None) -> Tensor:
    """Raise the background logit above all others outside a mask; logits (batch, class, *spatial), mask (batch, 1,
    *spatial)."""
    if where is None:
        return logits
    outside = ~where.to(logits.device)
    raised = torch.where(outside, logits.amax(1, keepdim=True) + 1, logits[:, :1])
    return torch.cat([raised, logits[:, 1:]], 1)
