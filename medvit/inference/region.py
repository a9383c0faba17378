"""Region of an image in which a user needs an answer: the body, or a box."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from medvit.errors import ImageError
from medvit.io import GridImage
from medvit.settings import region_sides
from medvit.transforms import NetworkGrid

if TYPE_CHECKING:
    from monai.data import MetaTensor

__all__ = ["region_mask"]

_MARGIN = 2
"""Number of voxels added around the body, so that it includes the skin."""


def region_mask(image: GridImage | MetaTensor, text: str) -> Tensor:
    """Compute the mask of the requested region on a preprocessed image (channel, *spatial), as (1, 1, *spatial) bool.

    The body is the largest component above Otsu's threshold of the first channel (N. Otsu, IEEE Trans. SMC 1979), with
    holes filled and two voxels added around it.

    Raises:
        ImageError: the image is not a volume from ``ResampleToNetworkGridd``, has no body, or the box is outside it.
    """
    if "network_grid" not in image.meta:
        raise ImageError(
            "an image that is no volume on a network's grid", "{roi_crop} needs one", "Leave it out.", option="roi_crop"
        )
    if text == "body":
        return _body(image.as_tensor()[0].cpu().numpy())
    grid = NetworkGrid.unpack(torch.as_tensor(image.meta["network_grid"]))
    sides = region_sides(text)
    mask = torch.zeros(1, 1, *image.shape[1:], dtype=torch.bool)
    at = []
    for axis, source_axis in enumerate(grid.axes):
        low, high = sides[source_axis]
        long, short = grid.source_shape[axis], grid.grid_shape[axis]
        if grid.flips[axis]:
            low, high = long - high, long - low
        first = int(np.floor(low * short / long)) - grid.start[axis]
        last = int(np.ceil(high * short / long)) - grid.start[axis]
        at.append(slice(max(0, first), max(0, last)))
    mask[0, 0][tuple(at)] = True
    if not bool(mask.any()):
        raise ImageError(
            f"the region {text}, which lies outside the image",
            "it must overlap the image",
            "Correct {roi_crop}.",
            option="roi_crop",
        )
    return mask


def _body(image: np.ndarray) -> Tensor:
    from scipy.ndimage import binary_dilation, binary_fill_holes, label
    from skimage.filters import threshold_otsu

    if image.min() == image.max():
        raise ImageError(
            "an image whose voxels all have one value",
            "{roi_crop=body} needs one",
            "Leave it out.",
            option="roi_crop",
        )
    pieces, _ = label(image > threshold_otsu(image))
    largest = pieces == 1 + int(np.bincount(pieces.ravel())[1:].argmax())
    body = binary_dilation(binary_fill_holes(largest), iterations=_MARGIN)
    return torch.from_numpy(np.ascontiguousarray(body))[None, None]
