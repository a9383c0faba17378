"""Transforms of super-resolution: an image on a finer grid by zero filling, and its intensities restored there."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch

from medvit.errors import ShapeError
from medvit.io import image_like, plain_tensor
from medvit.physics import low_frequency_part, upsampled_index, zero_fill
from medvit.transforms.keyed_transform import KeyedTransform, Keys

__all__ = ["IntensityOnUpsampledGridd", "ZeroFillUpsampled"]


class ZeroFillUpsampled(KeyedTransform):
    """Transform that interpolates each slice by zero filling of its k-space; slices are along k as stored. See
    ``medvit.physics.kspace``.

    Args:
        keys: images, GridImage or MetaTensor (1, i, j, k).
        factor: upsampling factor along i and j, 1 or more.
    """

    def __init__(self, keys: Keys, factor: int, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.factor = int(factor)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace each image by one of (1, factor * i, factor * j, k) float32 with the affine of the finer
        grid."""
        out = dict(data)
        for key in self.key_iterator(out):
            image = out[key]
            values = torch.from_numpy(zero_fill(image.as_tensor()[0].numpy(), self.factor))[None]
            affine = torch.as_tensor(image.affine, dtype=torch.float64) @ torch.from_numpy(upsampled_index(self.factor))
            out[key] = image_like(image, values, affine)
        return out


class IntensityOnUpsampledGridd(KeyedTransform):
    """Transform from a network's output to intensities on the finer grid, in the source's unit.

    With ``keep_measured``, the part of k-space that the source has is restored: the network adds only higher
    frequencies and changes nothing that was measured, such as the mean. Values below the lower limit of the source's
    kind of image (``ScalePercentilesToUnitd``) are raised to it.

    Args:
        keys: network outputs, (1, i, j, k), scaled like the image.
        factor: factor of ``ZeroFillUpsampled``.
        keep_measured: keep the measured part of k-space unchanged.
        image_key: the preprocessed image.

    Raises:
        ShapeError: the output has another size.
    """

    def __init__(
        self,
        keys: Keys,
        factor: int,
        keep_measured: bool = True,
        image_key: str = "image",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.factor, self.keep_measured, self.image_key = int(factor), keep_measured, image_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace each output by an image (1, i, j, k) float32 in the source's unit, with the finer grid's
        affine."""
        out = dict(data)
        image = out[self.image_key]
        low, high, least = (float(v) for v in torch.as_tensor(out[f"{self.image_key}_range"]).reshape(-1))
        affine = torch.as_tensor(image.affine, dtype=torch.float64).reshape(4, 4)
        interpolated = image.as_tensor()[0].cpu().numpy()
        for key in self.key_iterator(out):
            values = plain_tensor(out[key]).cpu().float()
            if tuple(values.shape[1:]) != interpolated.shape:
                raise ShapeError(
                    f"an output of {tuple(values.shape[1:])} for an image of {interpolated.shape}",
                    "they must be equal",
                    "Check the inferer.",
                )
            restored = values[0].numpy()
            if self.keep_measured:
                restored = restored + low_frequency_part(interpolated - restored, self.factor)
            scaled = torch.from_numpy(np.maximum(restored * (high - low) + low, least).astype(np.float32))[None]
            meta = {
                "filename_or_obj": image.meta.get("filename_or_obj", "image"),
                "original_affine": affine,
                "space": "RAS",
            }
            out[key] = image_like(image, scaled, affine, meta)
        return out
