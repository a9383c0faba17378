"""Transforms of intensities to the range of a restoration network and back; bundles name them as ``_target_``."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medvit.errors import ShapeError
from medvit.io import image_like, plain_tensor
from medvit.transforms.grid import NetworkGrid
from medvit.transforms.keyed_transform import KeyedTransform, Keys

__all__ = ["IntensityOnSourceGridd", "ScalePercentilesToUnitd", "ScaleRangeToUnitd", "percentile_range"]

_BEYOND = "beyond"


def _checked_range(low: float, high: float) -> tuple[float, float]:
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ShapeError(
            f"an intensity range of {low} to {high}", "the first must be below the second", "Correct intensity_range."
        )
    return float(low), float(high)


class ScaleRangeToUnitd(KeyedTransform):
    """Transform that maps a range of intensities to 0..1 and clips; the clipped part is stored under ``<key>_beyond``.

    Args:
        keys: images, (channel, i, j, k).
        low, high: intensities that become 0 and 1, in the image's unit.

    Raises:
        ShapeError: ``low`` is not below ``high``.
    """

    def __init__(self, keys: Keys, low: float, high: float, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.low, self.high = _checked_range(low, high)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace each image by the scaled image, float32, and add the clipped part, in the image's unit."""
        out = dict(data)
        for key in self.key_iterator(out):
            image = plain_tensor(out[key])
            inside = image.clamp(self.low, self.high)
            out[f"{key}_{_BEYOND}"] = image - inside
            out[key] = image_like(out[key], ((inside - self.low) / (self.high - self.low)).float())
        return out


_MOST = 2_000_000
"""Approximate number of voxels, evenly spread, from which percentiles of a larger image are computed."""


def percentile_range(image: NDArray[np.floating], percentiles: Sequence[float]) -> tuple[float, float]:
    """Return the values of an image that become 0 and 1: two of its percentiles, or its extremes if these are equal.

    Args:
        image: any shape, at least one value.
        percentiles: two numbers in order, 0 to 100.

    Raises:
        ShapeError: the percentiles are invalid, or all values are equal.
    """
    if len(percentiles) != 2 or not 0 <= percentiles[0] < percentiles[1] <= 100:
        raise ShapeError(
            f"percentiles {list(percentiles)}", "two from 0 to 100 in order are needed", "0.5 and 99.5 are usual."
        )
    values = image.reshape(-1)[:: max(1, image.size // _MOST)]
    low, high = (float(v) for v in np.percentile(values, percentiles))
    if low == high:
        low, high = float(image.min()), float(image.max())
    if low == high:
        raise ShapeError(
            f"the value {low:g} everywhere", "an image needs contrast", "Check that the right one is given."
        )
    return low, high


class ScalePercentilesToUnitd(KeyedTransform):
    """Transform that maps two of an image's percentiles to 0 and 1 without clipping, for images without a unit (MR).

    The data for the inverse are stored under ``<key>_range``: the two values, and the lower limit of a restored image,
    which is 0 for a source without negative values (a magnitude) and minus infinity for others.

    Args:
        keys: images, (channel, i, j, k).
        percentiles: percentiles that become 0 and 1.
    """

    def __init__(self, keys: Keys, percentiles: Sequence[float], allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.percentiles = tuple(float(p) for p in percentiles)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace each image by the scaled image, float32, and add its range, (3,) float64; errors as
        ``percentile_range``."""
        out = dict(data)
        for key in self.key_iterator(out):
            image = plain_tensor(out[key])
            low, high = percentile_range(image.numpy(), self.percentiles)
            least = 0.0 if float(image.min()) >= 0 else -math.inf
            out[f"{key}_range"] = torch.tensor([low, high, least], dtype=torch.float64)
            out[key] = image_like(out[key], ((image - low) / (high - low)).float())
        return out


class IntensityOnSourceGridd(KeyedTransform):
    """Transform from a network's output to intensities on the source grid.

    The part that ``ScaleRangeToUnitd`` clipped is added again: the network did not see it and must not change it.

    Args:
        keys: network outputs in 0..1, (channel, i, j, k).
        low, high: intensities that correspond to 0 and 1.
        image_key: the preprocessed image, whose meta stores the relation to the source grid.

    Raises:
        ShapeError: ``low`` is not below ``high``, the output has another size, or the image was resampled or cropped,
            so that values between its voxels would be invented.
    """

    def __init__(
        self, keys: Keys, low: float, high: float, image_key: str = "image", allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.low, self.high = _checked_range(low, high)
        self.image_key = image_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace each output by an image (channel, i, j, k) float32 in the image's unit, with the source's
        affine."""
        out = dict(data)
        image = out[self.image_key]
        grid = NetworkGrid.unpack(torch.as_tensor(image.meta["network_grid"]))
        affine = torch.as_tensor(image.meta["original_affine"], dtype=torch.float64).reshape(4, 4)
        beyond = out.get(f"{self.image_key}_{_BEYOND}")
        for key in self.key_iterator(out):
            values = plain_tensor(out[key]).cpu().float()
            if tuple(values.shape[1:]) != grid.source_shape or grid.grid_shape != grid.source_shape:
                raise ShapeError(
                    (
                        f"an output of {tuple(values.shape[1:])} on a grid of {grid.grid_shape} for a source of "
                        f"{grid.source_shape}"
                    ),
                    "they must be equal",
                    "Use ResampleToNetworkGridd with spacing_mm null and no crop.",
                )
            values = values * (self.high - self.low) + self.low
            if beyond is not None:
                values = values + plain_tensor(beyond).cpu()
            values = values.flip([d + 1 for d in range(3) if grid.flips[d]])
            values = values.permute(0, *(1 + grid.axes.index(axis) for axis in range(3))).contiguous()
            meta = {
                "filename_or_obj": image.meta.get("filename_or_obj", "image"),
                "original_affine": affine,
                "space": "RAS",
            }
            out[key] = image_like(image, values, affine, meta)
        return out
