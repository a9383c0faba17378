"""Transforms between two radiographs and a two-view network; bundles name them as ``_target_``."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from medvit.errors import ImageError, ShapeError
from medvit.io import image_like, plain_tensor
from medvit.transforms.keyed_transform import KeyedTransform, Keys

__all__ = ["LabelsOnVolumeGridd", "StackViewsd"]

_ASPECT = 0.02
"""Largest relative difference between the aspect ratios of picture and field; beyond it the body would be distorted."""


class StackViewsd(KeyedTransform):
    """Transform from two pictures of one patient to stacked views for a network.

    A picture is (1, row, column): rows from head to feet, columns from the patient's right to left (coronal, AP) or
    from front to back (sagittal, source on the left), bone bright; it shows exactly the network's field of view at the
    isocenter. A view is (side, z) with x to the right or y to the front, and z up, as in RAS volumes. Grey values are
    stretched between two percentiles to 0..1, since their scale differs between machines.

    Args:
        keys: the coronal and the sagittal picture, images, tensors or arrays.
        plane: the network's (side, z) in pixels.
        output_key: key of the stack, (2, side, z) float32, of the kind of the pictures.
        percentiles: percentiles of the grey values that become 0 and 1; values beyond are clipped.

    Raises:
        ShapeError: a picture has more than one channel, or another aspect ratio than the field of view.
        ImageError: NaN, or no contrast.
    """

    def __init__(
        self,
        keys: Keys,
        plane: Sequence[int],
        output_key: str = "image",
        percentiles: tuple[float, float] = (0.5, 99.5),
    ) -> None:
        super().__init__(keys)
        if len(self.keys) != 2:
            raise ShapeError(
                f"{len(self.keys)} key(s) for two views", "name the coronal and the sagittal picture", "Correct keys."
            )
        self.plane = int(plane[0]), int(plane[1])
        self.output_key = output_key
        self.percentiles = percentiles

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the stacked views; the pictures are kept."""
        out = dict(data)
        for key in self.keys:
            if key not in out:
                raise ShapeError(
                    f"no {key} view", "both views are needed", f"Give {' and '.join(map(str, self.keys))}."
                )
        views = [self._view(str(key), torch.as_tensor(np.asarray(out[key]))) for key in self.keys]
        first = out[self.keys[0]]
        out[self.output_key] = image_like(first, torch.cat(views), meta={"filename_or_obj": _name(first)})
        return out

    def _view(self, name: str, picture: Tensor) -> Tensor:
        side, height = self.plane
        if picture.ndim != 3 or picture.shape[0] != 1:
            raise ShapeError(
                f"a {name} view of shape {tuple(picture.shape)}",
                "(1, row, column), one grey value per pixel, is needed",
                "Save it as a grey picture.",
            )
        rows, columns = picture.shape[1:]
        if abs(rows * side / (columns * height) - 1) > _ASPECT:
            raise ShapeError(
                f"a {name} view of {rows} rows and {columns} columns",
                f"rows to columns must be as {height} to {side}, or the body would be distorted",
                "Crop or pad it to the field the bundle states.",
            )
        values = picture.double().numpy()
        if not np.isfinite(values).all():
            raise ImageError(f"NaN or infinite values in the {name} view", "all must be finite", "Replace them.")
        low, high = np.percentile(values, self.percentiles)
        if not high > low:
            raise ImageError(
                f"a {name} view without contrast", "it must show a body", "Check that the right file was given."
            )
        scaled = torch.from_numpy((values - low) / (high - low)).clamp(0, 1).float()
        upright = scaled.flip(1, 2).transpose(1, 2)[None]  # both axes reversed, so that z and x or y increase
        return F.interpolate(upright, size=self.plane, mode="bilinear", antialias=True, align_corners=False)[0]


class LabelsOnVolumeGridd(KeyedTransform):
    """Transform from logits of a two-view network to labels on its grid, whose centre is the isocenter.

    Args:
        keys: logits, (class, x, y, z).
        spacing_mm: voxel sides along right, anterior, superior.
        image_key: the stacked views, from which the labels take their name.
    """

    def __init__(
        self,
        keys: Keys,
        spacing_mm: Sequence[float],
        image_key: str = "image",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.spacing_mm = tuple(float(s) for s in spacing_mm)
        self.image_key = image_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace logits by labels, an image (1, x, y, z) uint8, with an affine to RAS+ mm around the isocenter."""
        out = dict(data)
        for key in self.key_iterator(out):
            logits = out[key]
            if logits.ndim != 4:
                raise ShapeError(
                    f"logits of shape {tuple(logits.shape)}", "(class, x, y, z) is needed", "Check the inferer."
                )
            labels = plain_tensor(logits).argmax(0, keepdim=True).to(torch.uint8).cpu()
            affine = torch.diag(torch.tensor([*self.spacing_mm, 1.0], dtype=torch.float64))
            middle = (torch.tensor(labels.shape[1:], dtype=torch.float64) - 1) / 2
            affine[:3, 3] = -affine[:3, :3] @ middle
            views = out.get(self.image_key)
            meta = {"filename_or_obj": _name(views), "original_affine": affine.clone(), "space": "RAS"}
            out[key] = image_like(views, labels, affine, meta)
        return out


def _name(picture: Any) -> str:
    """Return the name that an image keeps of its file; "xray" for tensors and arrays."""
    return str(picture.meta.get("filename_or_obj", "xray")) if hasattr(picture, "meta") else "xray"
