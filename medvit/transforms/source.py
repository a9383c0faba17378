"""The transform that opens a source."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Mapping
from typing import Any

from medvit.io import GridImage, is_meta_tensor, open_source
from medvit.transforms.keyed_transform import KeyedTransform

__all__ = ["OpenSourceImaged"]


class OpenSourceImaged(KeyedTransform):
    """Transform that opens the source under each key (any source for ``open_source``); GridImages and MetaTensors are
    returned unchanged."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace each source by its MetaTensor, (channel, i, j, k)."""
        out = dict(data)
        for key in self.key_iterator(out):
            if not (isinstance(out[key], GridImage) or is_meta_tensor(out[key])):
                scan = open_source(out[key])
                for flag in scan.excluded:  # warnings, since runs by MONAI have no exit code for excluded parts
                    warnings.warn(flag, stacklevel=2)
                out[key] = scan.meta_tensor()
        return out
