"""An image with its affine for use inside a run, and helpers that treat it and MONAI's MetaTensor alike. Importing this
loads neither torch nor MONAI.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from monai.data import MetaTensor
    from torch import Tensor

__all__ = ["GridImage", "image_like", "is_meta_tensor", "plain_tensor"]


@dataclass(frozen=True, kw_only=True, eq=False)
class GridImage:
    """An image with its affine and meta. It replaces a MetaTensor inside a run, since importing MONAI takes a second.

    Attributes:
        values: (channel, *spatial).
        affine: (4, 4) float64, voxel index to RAS+ millimetres.
        meta: other facts about the image, as in a MetaTensor's ``meta``, but without the affine.

    Examples:
        >>> import torch
        >>> from medvit.io import GridImage
        >>> image = GridImage(values=torch.zeros(1, 4, 4, 2), affine=torch.eye(4, dtype=torch.float64))
        >>> image.shape, image.meta
        (torch.Size([1, 4, 4, 2]), {})
    """

    values: Tensor
    affine: Tensor
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shape(self) -> Any:
        """Size of the values, (channel, *spatial)."""
        return self.values.shape

    def as_tensor(self) -> Tensor:
        """Return the values as a plain tensor; the name is that of MetaTensor's method."""
        return self.values

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.values.numpy(), dtype=dtype, copy=copy)

    def meta_tensor(self) -> MetaTensor:
        """Return the image as MONAI's MetaTensor."""
        from monai.data import MetaTensor

        return MetaTensor(self.values, affine=self.affine, meta=dict(self.meta))


def is_meta_tensor(value: object) -> bool:
    """Return True for MONAI's MetaTensor, without importing MONAI.

    Args:
        value: any object.

    Returns:
        True for a MetaTensor, False for other objects, tensors included.

    Examples:
        >>> import torch
        >>> from medvit.io import is_meta_tensor
        >>> is_meta_tensor(torch.zeros(2))
        False
    """
    monai = sys.modules.get("monai.data.meta_tensor")  # without this module there is no MetaTensor
    return monai is not None and isinstance(value, monai.MetaTensor)


def plain_tensor(value: Any) -> Tensor:
    """Return the plain tensor of a GridImage or MetaTensor; return a plain tensor unchanged.

    Args:
        value: a GridImage, MetaTensor or tensor.

    Returns:
        The plain tensor; memory is shared.

    Examples:
        >>> import torch
        >>> from medvit.io import plain_tensor
        >>> plain_tensor(torch.ones(2))
        tensor([1., 1.])
    """
    plain: Tensor = value.as_tensor() if isinstance(value, GridImage) or is_meta_tensor(value) else value
    return plain


def image_like(image: Any, values: Tensor, affine: Tensor | None = None, meta: Mapping[str, Any] | None = None) -> Any:
    """Make an image of another image's kind: a GridImage, a MetaTensor, or a plain tensor.

    Args:
        image: the image whose kind is used, and whose affine and meta are kept where none are given.
        values: values of the new image.
        affine: affine of the new image.
        meta: meta of the new image, without its affine.

    Returns:
        A GridImage or MetaTensor; for a plain tensor, a MetaTensor if an affine or a meta is given, else ``values``.

    Examples:
        >>> import torch
        >>> from medvit.io import GridImage, image_like
        >>> image = GridImage(values=torch.zeros(1, 2, 2, 2), affine=torch.eye(4), meta={"space": "RAS"})
        >>> image_like(image, image.values + 1).meta
        {'space': 'RAS'}
    """
    if isinstance(image, GridImage):
        return GridImage(
            values=values,
            affine=image.affine if affine is None else affine,
            meta=image.meta if meta is None else meta,
        )
    tracked = is_meta_tensor(image)
    if affine is None and meta is None and not tracked:
        return values
    from monai.data import MetaTensor

    if affine is None and meta is None:
        return MetaTensor(values).copy_meta_from(image)
    kept = image.meta if meta is None and tracked else meta or {}
    place = image.affine if affine is None and tracked else affine
    return MetaTensor(values, affine=place, meta={name: value for name, value in kept.items() if name != "affine"})
