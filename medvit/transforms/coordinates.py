"""Coordinate channels: the position of each voxel in the head, which a network needs to distinguish right from left."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medvit.io import image_like, spacing_mm
from medvit.transforms.keyed_transform import KeyedTransform

__all__ = ["AddCoordinateChannelsd", "coordinate_channels"]

_UNIT_MM = 100.0
"""Unit of the coordinates, about half a head, so that they have the size of intensities."""


def coordinate_channels(image: Tensor, sides_mm: Sequence[float]) -> Tensor:
    """Add three channels to an image: the distance from its centre to the right, the front and the top, in 100 mm.

    The centre is the centre of mass of the intensities, since the position of a head in the image is arbitrary. The
    halves of a head differ mainly in position, and a convolutional network knows the position only from the edges of
    the image.

    Args:
        image: (1, i, j, k) float in 0..1 on RAS axes.
        sides_mm: voxel sides.

    Returns:
        (4, i, j, k) of the same type.
    """
    total = image[0].sum().clamp_min(1e-6)
    channels = [image]
    for axis, side in enumerate(sides_mm):
        shape = [1, 1, 1]
        shape[axis] = -1
        at = torch.arange(image.shape[axis + 1], dtype=image.dtype, device=image.device).reshape(shape)
        centre = (image[0] * at).sum() / total
        channels.append(((at - centre) * (side / _UNIT_MM)).expand(image.shape[1:])[None])
    return torch.cat(channels)


class AddCoordinateChannelsd(KeyedTransform):
    """Transform by ``coordinate_channels`` of images (1, i, j, k) in 0..1 after ``ResampleToNetworkGridd``; meta
    is kept."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Append three coordinate channels to each image."""
        out = dict(data)
        for key in self.key_iterator(out):
            image = out[key]
            affine = np.asarray(image.affine, dtype=np.float64)
            more = coordinate_channels(image.as_tensor(), spacing_mm(affine))
            out[key] = image_like(image, more)
        return out
