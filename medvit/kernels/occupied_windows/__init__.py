"""Search for constant windows (one value per channel), for which a network needs to run only once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from medvit.errors import ShapeError
from medvit.kernels.occupied_windows.reference import occupied_windows_reference

__all__ = ["constant_groups", "occupied_windows", "occupied_windows_reference"]

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def occupied_windows(image: Tensor, roi_size: Sequence[int], origins: Tensor) -> Tensor:
    """Find the windows of an image with two different values in some channel; the other windows are constant.

    Values are compared by their bits, so that constant windows are identical to any network: 0.0 differs from -0.0, and
    a NaN equals itself. Each voxel is read once, however many windows cover it, since minima and maxima are computed
    for the blocks between the edges of the windows.

    Args:
        image: (batch, channel, *spatial), any real type.
        roi_size: (axis,) window size in voxels.
        origins: (window, axis) integer, the first voxel of each window.

    Returns:
        (batch, window) bool on the image's device; False for constant windows.

    Raises:
        ShapeError: an empty or complex image, or windows outside the image.

    Examples:
        >>> import torch
        >>> from medvit.kernels import occupied_windows
        >>> image = torch.tensor([[[0.0, 0.0, 0.0, 5.0]]])
        >>> occupied_windows(image, (2,), torch.tensor([[0], [1], [2]]))
        tensor([[False, False,  True]])
    """
    bits = _bits(image)
    check_windows(image.shape[2:], roi_size, origins)
    edges, blocks = _blocks(roi_size, origins)
    low = high = bits
    for axis, at in enumerate(edges):
        parts = [slice(a, b) for a, b in pairwise(at)]
        low, high = _reduced(low, axis + 2, parts, torch.amin), _reduced(high, axis + 2, parts, torch.amax)
    found = [
        low[at].flatten(2).amin(2).ne(high[at].flatten(2).amax(2)).any(1)
        for at in ((slice(None), slice(None), *box) for box in blocks)
    ]
    return torch.stack(found, 1)


def constant_groups(image: Tensor, origins: Tensor, occupied: Tensor) -> Tensor:
    """Group identical constant windows, so that a network runs once per group.

    Args:
        image: (batch, channel, *spatial).
        origins: (window, axis), as given to ``occupied_windows``.
        occupied: (batch, window), the result of ``occupied_windows``.

    Returns:
        (batch, window) int64 on the CPU: -1 for occupied windows, else a group number. Windows of a group have the same
        values in all channels; a group may span several images of the batch.
    """
    places = origins.to(image.device)
    at: tuple[Any, ...] = (slice(None), slice(None), *places.unbind(1))
    first = _bits(image)[at].movedim(1, -1)  # (batch, window, channel)
    groups = torch.full(occupied.shape, -1, dtype=torch.int64, device=image.device)
    if not bool(occupied.all()):
        groups[~occupied] = torch.unique(first[~occupied], dim=0, return_inverse=True)[1]
    return groups.cpu()


def check_windows(spatial: Sequence[int], roi_size: Sequence[int], origins: Tensor) -> None:
    """Refuse windows outside an image.

    Raises:
        ShapeError: a window is outside the image, or the shapes of sizes and origins do not match the image.
    """
    axes = len(spatial)
    fits = (
        len(roi_size) == axes
        and origins.ndim == 2
        and origins.shape[1] == axes
        and len(origins) > 0
        and min(roi_size) > 0
        and not bool((origins < 0).any())
        and not bool((origins.cpu() + torch.tensor(list(roi_size)) > torch.tensor(list(spatial))).any())
    )
    if not fits:
        raise ShapeError(
            (
                f"windows of {tuple(roi_size)} with origins of shape {tuple(origins.shape)} for an image of "
                f"{tuple(spatial)}"
            ),
            "origins must be (window, axis) with every window inside the image",
            "Pad the image, or correct the origins.",
        )


def _bits(image: Tensor) -> Tensor:
    if image.is_complex() or image.ndim < 3 or 0 in image.shape:
        raise ShapeError(
            f"an image of {tuple(image.shape)}, {image.dtype}",
            "(batch, channel, *spatial) of real numbers with at least one voxel is needed",
            "Add the missing axes, or take the magnitude.",
        )
    return image.detach().view(_BITS[image.element_size()])


def _blocks(roi_size: Sequence[int], origins: Tensor) -> tuple[list[list[int]], list[tuple[slice, ...]]]:
    """Return the windows' edges along each axis, and for each window the blocks between edges that it consists of."""
    starts = origins.tolist()
    edges = [
        sorted({row[axis] for row in starts} | {row[axis] + roi for row in starts}) for axis, roi in enumerate(roi_size)
    ]
    number = [{edge: n for n, edge in enumerate(at)} for at in edges]
    blocks = [
        tuple(slice(at[s], at[s + roi]) for s, roi, at in zip(row, roi_size, number, strict=True)) for row in starts
    ]
    return edges, blocks


def _reduced(values: Tensor, axis: int, parts: list[slice], extremum: Callable[..., Tensor]) -> Tensor:
    before = (slice(None),) * axis
    return torch.stack([extremum(values[(*before, part)], dim=axis) for part in parts], axis)
