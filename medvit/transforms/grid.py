"""Transforms between the source grid and the network grid; bundles name them as ``_target_``.

The inverse is computed from integers (permutation, flips, sizes) stored in the image's meta, never from floating-point
affines. So a DICOM series and its NIfTI copy, whose headers are rounded differently, give the same voxels.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from medvit.io import image_like, spacing_mm
from medvit.transforms.keyed_transform import KeyedTransform, Keys

__all__ = ["CropToBodyd", "NetworkGrid", "ResampleToNetworkGridd"]

_KEY = "network_grid"

AnyImage: TypeAlias = Any
"""A GridImage or a MetaTensor; the result of a transform is of the kind that it is given."""


@dataclass(frozen=True, kw_only=True)
class NetworkGrid:
    """Relation between the network grid and the source grid, in integers.

    Attributes:
        axes: for each RAS axis, the source axis from which it comes.
        flips: for each RAS axis, 1 if it was reversed.
        source_shape: source size along RAS axes (after permutation).
        grid_shape: size after resampling.
        start: first voxel of the crop on that grid.
        size: size of the crop.
    """

    axes: tuple[int, ...]
    flips: tuple[int, ...]
    source_shape: tuple[int, ...]
    grid_shape: tuple[int, ...]
    start: tuple[int, ...]
    size: tuple[int, ...]

    def pack(self) -> Tensor:
        """Pack into one int64 tensor, which MONAI's collating and decollating preserve."""
        parts = (self.axes, self.flips, self.source_shape, self.grid_shape, self.start, self.size)
        return torch.tensor(parts, dtype=torch.int64)

    @classmethod
    def unpack(cls, packed: Tensor) -> NetworkGrid:
        """Unpack the tensor of ``pack``."""
        axes, flips, source_shape, grid_shape, start, size = (
            tuple(map(int, row)) for row in packed.reshape(6, -1).tolist()
        )
        return cls(axes=axes, flips=flips, source_shape=source_shape, grid_shape=grid_shape, start=start, size=size)


class ResampleToNetworkGridd(KeyedTransform):
    """Transform that turns an image to the closest RAS axes and resamples it to a spacing, with smoothing against
    aliasing.

    Args:
        keys: images, GridImage or MetaTensor (channel, i, j, k).
        spacing_mm: voxel sides along right, anterior, superior. The actual spacing differs slightly (less than half a
            voxel over the whole side), so that an integer number of voxels has exactly the source's extent. None keeps
            the source's spacing: voxels are reordered and no value changes.
        smooth: False for weights trained on images that were interpolated without smoothing.
    """

    def __init__(
        self,
        keys: Keys,
        spacing_mm: Sequence[float] | None,
        allow_missing_keys: bool = False,
        smooth: bool = True,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.spacing_mm = None if spacing_mm is None else tuple(float(s) for s in spacing_mm)
        self.smooth = smooth

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace each image by the resampled image; its meta stores the relation to the source grid."""
        out = dict(data)
        for key in self.key_iterator(out):
            out[key] = self._move(out[key])
        return out

    def _move(self, image: AnyImage) -> AnyImage:
        import nibabel as nib

        affine = np.asarray(image.affine, dtype=np.float64)
        orientation = nib.io_orientation(affine)
        axes = tuple(int(np.flatnonzero(orientation[:, 0] == world)[0]) for world in range(3))
        flips = tuple(int(orientation[axis, 1] < 0) for axis in axes)
        # a view: a large image is copied only once, by the first smoothing
        turned = image.as_tensor().numpy().transpose(0, *(a + 1 for a in axes))
        straight = np.flip(turned, tuple(d + 1 for d in range(3) if flips[d])).astype(np.float32, copy=False)
        source = tuple(straight.shape[1:])
        if self.spacing_mm is None:
            record = NetworkGrid(
                axes=axes, flips=flips, source_shape=source, grid_shape=source, start=(0, 0, 0), size=source
            )
            return _with_grid(_own_copy(straight, turned), image, _grid_affine(affine, record), record)
        # headers are rounded differently, so the grid size is computed from sides rounded to 0.001 mm
        sides = [round(spacing_mm(affine)[a], 3) for a in axes]
        grid = tuple(max(1, round(n * s / t)) for n, s, t in zip(source, sides, self.spacing_mm, strict=True))
        smooth = _smooth(straight, source, grid) if self.smooth else torch.from_numpy(np.ascontiguousarray(straight))
        moved = F.interpolate(smooth[None], size=grid, mode="trilinear", align_corners=False)[0]
        record = NetworkGrid(axes=axes, flips=flips, source_shape=source, grid_shape=grid, start=(0, 0, 0), size=grid)
        return _with_grid(moved, image, _grid_affine(affine, record), record)


def _with_grid(values: Tensor, image: AnyImage, affine: np.ndarray, grid: NetworkGrid) -> AnyImage:
    """Make an image of new values with the image's meta, a new affine and the grid relation."""
    return image_like(image, values, torch.from_numpy(affine), {**image.meta, _KEY: grid.pack()})


def _grid_affine(source: np.ndarray, grid: NetworkGrid) -> np.ndarray:
    """Compute the grid's affine to RAS+; voxel centres are at half-integers of the common extent."""
    to_source = np.zeros((4, 4))
    to_source[3, 3] = 1
    rows = zip(grid.axes, grid.flips, grid.source_shape, grid.grid_shape, grid.start, strict=True)
    for axis, (source_axis, flip, long, short, start) in enumerate(rows):
        step = long / short
        first = (start + 0.5) * step - 0.5
        to_source[source_axis, axis] = -step if flip else step
        to_source[source_axis, 3] = long - 1 - first if flip else first
    moved: np.ndarray = source @ to_source
    return moved


def _own_copy(values: np.ndarray, given: np.ndarray) -> Tensor:
    """Return contiguous values in memory that is not shared with the given image."""
    copied = np.ascontiguousarray(values)
    return torch.from_numpy(copied.copy() if np.shares_memory(copied, given) else copied)


def _smooth(image: np.ndarray, source: tuple[int, ...], grid: tuple[int, ...]) -> Tensor:
    """Smooth by a Gaussian with a standard deviation of (ratio - 1) / 2 source voxels along each axis that shrinks."""
    from scipy.ndimage import gaussian_filter1d

    made = None
    for axis, (long, short) in enumerate(zip(source, grid, strict=True)):
        sigma = (long / short - 1) / 2
        if sigma <= 0.2:
            continue
        given = image if made is None else made  # from the second axis on, lines are replaced in place
        made = np.empty(image.shape, np.float32) if made is None else made
        gaussian_filter1d(given, sigma, axis=axis + 1, output=made, mode="nearest", truncate=3.0)
    return torch.from_numpy(np.ascontiguousarray(image) if made is None else made)


class CropToBodyd(KeyedTransform):
    """Transform that crops to the box of voxels above a threshold, so that no window is spent on air.

    Args:
        keys: images, GridImage or MetaTensor (channel, i, j, k) after ``ResampleToNetworkGridd``.
        threshold: voxels above it in any channel are kept in the box; if there are none, the image is not cropped.
        margin: number of voxels kept around the box.
    """

    def __init__(self, keys: Keys, threshold: float, margin: int = 2, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.threshold = threshold
        self.margin = margin

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace each image by its crop; its meta stores the relation to the source grid."""
        out = dict(data)
        for key in self.key_iterator(out):
            out[key] = self._crop(out[key])
        return out

    def _crop(self, image: AnyImage) -> AnyImage:
        content = image.as_tensor().numpy() > self.threshold  # torch is fifty times slower in the reductions below
        if not content.any():
            return image
        box = []
        for axis in range(3):
            at = np.flatnonzero(content.any(axis=tuple(a for a in range(4) if a != axis + 1)))
            low = max(0, int(at[0]) - self.margin)
            box.append(slice(low, min(content.shape[axis + 1], int(at[-1]) + 1 + self.margin)))
        grid = NetworkGrid.unpack(image.meta[_KEY])
        start = tuple(s + b.start for s, b in zip(grid.start, box, strict=True))
        cut = image.as_tensor()[(slice(None), *box)].contiguous()
        record = replace(grid, start=start, size=tuple(cut.shape[1:]))
        shift = np.eye(4)
        shift[:3, 3] = [b.start for b in box]
        affine = np.asarray(image.affine, dtype=np.float64) @ shift
        return _with_grid(cut, image, affine, record)
