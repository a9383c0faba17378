"""Parts of MONAI's interface of inferers, for classes that must not import MONAI."""

from __future__ import annotations

import sys
from typing import TypeVar

from torch import Tensor

from medvit.io import is_meta_tensor

__all__ = ["register_inferer", "with_meta_of"]

_Kind = TypeVar("_Kind", bound=type)


def register_inferer(kind: _Kind) -> _Kind:
    """Register a class as a subclass of MONAI's ``Inferer`` if MONAI is loaded; MONAI itself never asks for that."""
    if "monai.inferers" in sys.modules:
        from monai.inferers import Inferer

        Inferer.register(kind)
    return kind


def with_meta_of(image: object, result: Tensor) -> Tensor:
    """Return a result as MetaTensor with the meta of the image where the image is a MetaTensor."""
    if not is_meta_tensor(image):
        return result
    from monai.data import MetaTensor

    made: Tensor = MetaTensor(result).copy_meta_from(image, copy_attr=False)
    return made
