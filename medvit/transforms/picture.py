"""Transforms between a PNG or JPEG and a 2-D network; bundles name them as ``_target_``.

A picture states no unit, and its values depend on bit depth, camera and exposure. So the brightness of each picture is
stretched separately, in training and in use; 8-bit, 16-bit, grey, palette and colour pictures all get the same range.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medvit.atomic_write import replace_file
from medvit.errors import ImageError
from medvit.io import image_like
from medvit.transforms.keyed_transform import KeyedTransform, Keys

__all__ = ["SaveImagePNGd", "ScaleToUnitRGBd", "scale_to_unit_rgb"]

_DARK, _BRIGHT = 0.1, 99.9
"""Percentiles of brightness that become 0 and 1, so that single hot pixels do not darken the picture."""


def scale_to_unit_rgb(array: np.ndarray) -> np.ndarray:
    """Scale a picture to three channels in 0..1, with the proportions of its colours unchanged.

    Args:
        array: (1 or 3, row, column), any real numbers; a grey picture is repeated.

    Returns:
        (3, row, column) float32; the 0.1 and 99.9 % points over all channels become 0 and 1, values beyond are clipped.

    Raises:
        ImageError: another number of channels or axes, NaN, or all values are equal.
    """
    if array.ndim != 3 or array.shape[0] not in (1, 3):
        raise ImageError(
            f"a picture of shape {array.shape}",
            "(1 or 3, row, column) is needed: grey or red, green, blue",
            "Convert it first.",
        )
    values = np.asarray(array, dtype=np.float64)
    values = np.repeat(values, 3, 0) if len(values) == 1 else values  # now, so that grey equals grey RGB
    if not np.isfinite(values).all():
        raise ImageError("NaN or infinite values in a picture", "all must be finite", "Replace them first.")
    low, high = np.percentile(values, (_DARK, _BRIGHT))
    if high <= low:  # nearly all pixels are equal, e.g. a few bright spots on black
        low, high = float(values.min()), float(values.max())
    if high <= low:
        raise ImageError(f"the value {low:g} everywhere in a picture", "an image needs contrast", "Check the file.")
    scaled: np.ndarray = np.clip((values - low) / (high - low), 0, 1).astype(np.float32)
    return scaled


class ScaleToUnitRGBd(KeyedTransform):
    """Transform by ``scale_to_unit_rgb`` of the picture under each key, GridImage or MetaTensor (1 or 3, row, column)."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace each picture by the scaled picture; its meta is kept."""
        out = dict(data)
        for key in self.key_iterator(out):
            picture = out[key]
            out[key] = image_like(picture, torch.from_numpy(scale_to_unit_rgb(np.asarray(picture))))
        return out


class SaveImagePNGd(KeyedTransform):
    """Transform that writes labels as ``<name>_<postfix>.png``, rows and columns as in the source; for ``python -m
    monai.bundle run``.

    Args:
        keys: labels, (1, row, column), integers up to 255.
        output_dir: folder; created.
        output_postfix: suffix after the source's name.
        image_key: the picture, whose meta has the name.
    """

    def __init__(
        self,
        keys: Keys,
        output_dir: str,
        output_postfix: str = "labels",
        image_key: str = "image",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.output_dir, self.output_postfix, self.image_key = Path(output_dir), output_postfix, image_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the labels and return the data unchanged."""
        from PIL import Image

        out = dict(data)
        name = Path(str(out[self.image_key].meta.get("filename_or_obj", "picture"))).stem
        for key in self.key_iterator(out):
            with replace_file(self.output_dir / f"{name}_{self.output_postfix}.png") as aside:
                Image.fromarray(np.asarray(out[key])[0].astype(np.uint8)).save(aside, format="PNG")
        return out
