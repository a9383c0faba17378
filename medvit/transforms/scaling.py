"""Scaling of intensities and thresholds as MONAI's transforms of the same names compute them; bundles name them as
``_target_``. The results are equal to MONAI's to the last bit.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medvit.errors import ShapeError
from medvit.io import image_like, plain_tensor
from medvit.transforms.keyed_transform import KeyedTransform, Keys

__all__ = ["AsDiscreted", "ScaleIntensityRangePercentilesd", "ScaleIntensityRanged"]

_SORTED_BY_TORCH = 1_000_000
"""Largest number of values whose percentiles MONAI computes by torch; beyond it numpy does, whose last digit differs."""


class ScaleIntensityRanged(KeyedTransform):
    """Transform that maps the range ``a_min``..``a_max`` of intensities linearly to ``b_min``..``b_max``.

    Args:
        keys: images, (channel, *spatial).
        a_min, a_max: intensities that become ``b_min`` and ``b_max``.
        b_min, b_max: new range; None maps to 0..1.
        clip: clip to the new range.
        allow_missing_keys: skip keys that the data lack.
    """

    def __init__(
        self,
        keys: Keys,
        a_min: float,
        a_max: float,
        b_min: float | None = None,
        b_max: float | None = None,
        clip: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.a_min, self.a_max, self.b_min, self.b_max, self.clip = a_min, a_max, b_min, b_max, clip

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace each image by the scaled image, float32."""
        out = dict(data)
        for key in self.key_iterator(out):
            values = _scaled(plain_tensor(out[key]), (self.a_min, self.a_max), (self.b_min, self.b_max), self.clip)
            out[key] = image_like(out[key], values)
        return out


class ScaleIntensityRangePercentilesd(KeyedTransform):
    """Transform that maps two percentiles of an image linearly to ``b_min`` and ``b_max``.

    Args:
        keys: images, (channel, *spatial); all channels have the same percentiles.
        lower, upper: percentiles, 0 to 100.
        b_min, b_max: new range; None maps to 0..1.
        clip: clip to the new range.
        allow_missing_keys: skip keys that the data lack.

    Raises:
        ShapeError: a percentile is outside 0..100.
    """

    def __init__(
        self,
        keys: Keys,
        lower: float,
        upper: float,
        b_min: float | None,
        b_max: float | None,
        clip: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if not (0 <= lower <= 100 and 0 <= upper <= 100):
            raise ShapeError(
                f"percentiles {lower} and {upper}", "they must lie between 0 and 100", "1 and 99 are usual."
            )
        self.lower, self.upper, self.b_min, self.b_max, self.clip = lower, upper, b_min, b_max, clip

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace each image by the scaled image, float32."""
        out = dict(data)
        for key in self.key_iterator(out):
            image = plain_tensor(out[key])
            source = _percentile(image, self.lower), _percentile(image, self.upper)
            out[key] = image_like(out[key], _scaled(image, source, (self.b_min, self.b_max), self.clip).float())
        return out


class AsDiscreted(KeyedTransform):
    """Transform from logits to a mask or to labels.

    Args:
        keys: logits, (class, *spatial).
        argmax: replace the classes by the number of the class with the largest logit, (1, *spatial).
        threshold: set 1 where a value is at least the threshold, else 0.
        allow_missing_keys: skip keys that the data lack.
    """

    def __init__(
        self, keys: Keys, argmax: bool = False, threshold: float | None = None, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.argmax, self.threshold = argmax, threshold

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace logits by a mask or labels, float32."""
        out = dict(data)
        for key in self.key_iterator(out):
            values = plain_tensor(out[key])
            values = torch.argmax(values, 0, keepdim=True) if self.argmax else values
            values = values if self.threshold is None else values >= self.threshold
            out[key] = image_like(out[key], values.float())
        return out


def _percentile(values: Tensor, percent: float) -> Any:
    """Return a percentile of all values as MONAI computes it, a scalar tensor."""
    if values.numel() > _SORTED_BY_TORCH:
        return torch.as_tensor(np.percentile(values.numpy(), np.asarray(percent))).to(values.dtype)
    return torch.quantile(values, torch.tensor(percent / 100.0, dtype=values.dtype))


def _scaled(values: Tensor, source: tuple[Any, Any], target: tuple[float | None, float | None], clip: bool) -> Tensor:
    """Map one range of values linearly to another, float32; a source range of width 0 is moved to the new minimum."""
    (low, high), (least, most) = source, target
    scaled: Tensor = values - low
    if high - low == 0.0:
        warnings.warn("Divide by zero (a_min == a_max)", stacklevel=3)
        return scaled if least is None else scaled + least
    scaled = scaled / (high - low)
    if least is not None and most is not None:
        scaled = scaled * (most - least) + least
    return (scaled.clamp(least, most) if clip and (least, most) != (None, None) else scaled).float()
