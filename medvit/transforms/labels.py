"""Transforms of labels: from logits to labels on the source grid, and the largest component of each class."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medvit.errors import ShapeError
from medvit.io import image_like, plain_tensor
from medvit.kernels.resample_argmax import resample_argmax
from medvit.transforms.grid import _KEY, AnyImage, NetworkGrid
from medvit.transforms.keyed_transform import KeyedTransform, Keys

__all__ = ["ArgmaxOnSourceGridd", "KeepLargestComponentLogitsd", "stray_components"]


class ArgmaxOnSourceGridd(KeyedTransform):
    """Transform from logits on the network grid to labels on the source grid.

    Args:
        keys: logits, (class, i, j, k).
        image_key: the preprocessed image, whose meta stores the relation to the source grid.
    """

    def __init__(self, keys: Keys, image_key: str = "image", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key = image_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace logits by labels, an image (1, i, j, k) uint8, with the source's affine."""
        out = dict(data)
        image = out[self.image_key]
        grid = NetworkGrid.unpack(torch.as_tensor(image.meta[_KEY]))
        for key in self.key_iterator(out):
            plain = plain_tensor(out[key]).cpu()
            if tuple(plain.shape[1:]) != grid.size:
                raise ShapeError(
                    f"logits of {tuple(plain.shape[1:])} for an image of {grid.size}",
                    "they must match",
                    "Check the inferer.",
                )
            labels = resample_argmax(plain, out_shape=grid.source_shape, grid_shape=grid.grid_shape, start=grid.start)
            out[key] = self.on_source(labels, image)
        return out

    def on_source(self, labels: Tensor, image: AnyImage) -> AnyImage:
        """Turn labels from RAS axes, (right, anterior, superior), to the source's axes, (1, i, j, k).

        Args:
            labels: labels with the source's voxels along RAS axes.
            image: the preprocessed image, whose meta stores the relation to the source grid.
        """
        grid = NetworkGrid.unpack(torch.as_tensor(image.meta[_KEY]))
        affine = torch.as_tensor(image.meta["original_affine"], dtype=torch.float64).reshape(4, 4)
        turned = labels.flip([d for d in range(3) if grid.flips[d]])
        order = [grid.axes.index(axis) for axis in range(3)]
        meta = {
            "filename_or_obj": image.meta.get("filename_or_obj", "image"),
            "original_affine": affine,
            "space": "RAS",
        }
        return image_like(image, turned.permute(order).contiguous()[None], affine, meta)


class KeepLargestComponentLogitsd(KeyedTransform):
    """Transform that keeps the largest connected component of each class, on the network grid, before the argmax.

    Where a class has the largest logit outside its largest component, background's logit is raised above all others.

    Args:
        keys: logits, (class, i, j, k).
        classes: classes that are a single component in a body.
    """

    def __init__(self, keys: Keys, classes: Sequence[int], allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.classes = tuple(int(c) for c in classes)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace logits by logits without stray components."""
        out = dict(data)
        for key in self.key_iterator(out):
            plain = plain_tensor(out[key]).clone()
            stray = torch.from_numpy(stray_components(plain.argmax(0).cpu().numpy(), self.classes)).to(plain.device)
            plain[0][stray] = plain.amax(0)[stray] + 1
            out[key] = image_like(out[key], plain)
        return out


def stray_components(labels: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """Return a bool array, True where a class lies outside its largest connected component."""
    from scipy.ndimage import label

    stray = np.zeros(labels.shape, dtype=bool)
    for c in classes:
        pieces, count = label(labels == c)
        if count > 1:
            stray |= (pieces > 0) & (pieces != 1 + int(np.bincount(pieces.ravel())[1:].argmax()))
    return stray
