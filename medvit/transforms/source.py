"""The transform that opens a source."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Mapping
from typing import Any

from monai.data import MetaTensor
from monai.transforms import MapTransform

from medvit.io import open_source

__all__ = ["OpenSourceImaged"]


class OpenSourceImaged(MapTransform):  # type: ignore[misc]
    """Transform that opens the source under each key (any source for ``open_source``); MetaTensors are returned
    unchanged."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace each source by its MetaTensor, (channel, i, j, k)."""
        out = dict(data)
        for key in self.key_iterator(out):
            if not isinstance(out[key], MetaTensor):
                scan = open_source(out[key])
                for flag in scan.excluded:  # warnings, since runs by MONAI have no exit code for excluded parts
                    warnings.warn(flag, stacklevel=2)
                out[key] = scan.meta_tensor()
        return out
