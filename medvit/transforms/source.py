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
    """Open the source under each key (anything ``open_source`` reads); MetaTensors pass through."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace each source by its MetaTensor, (channel, i, j, k)."""
        out = dict(data)
        for key in self.key_iterator(out):
            if not isinstance(out[key], MetaTensor):
                scan = open_source(out[key])
                for flag in scan.excluded:  # MONAI's own runs have no exit code for it
                    warnings.warn(flag, stacklevel=2)
                out[key] = scan.meta_tensor()
        return out
