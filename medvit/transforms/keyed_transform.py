"""Base of the transforms that medvit's configs name, and their sequence; both work inside MONAI's pipelines and load
nothing of MONAI.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

__all__ = ["Compose", "KeyedTransform", "Keys"]

Keys: TypeAlias = "Hashable | Iterable[Hashable]"
"""One key of the data, or several."""


class KeyedTransform(ABC):
    """Transform of the images under some keys of a mapping, like MONAI's ``MapTransform``.

    Where MONAI is loaded before this module, these transforms count as MONAI's ``MapTransform``, as datasets that cache
    deterministic transforms require.

    Args:
        keys: keys of the images.
        allow_missing_keys: skip keys that the data lack, instead of raising an error.

    Attributes:
        keys: keys of the images.
        allow_missing_keys: as given.

    Raises:
        ValueError: there are no keys.
    """

    def __init__(self, keys: Keys, allow_missing_keys: bool = False) -> None:
        several = keys if isinstance(keys, Iterable) and not isinstance(keys, str) else (keys,)
        self.keys: tuple[Hashable, ...] = tuple(several)
        self.allow_missing_keys = allow_missing_keys
        if not self.keys:
            raise ValueError(f"{type(self).__name__} needs at least one key.")

    def key_iterator(self, data: Mapping[Hashable, Any]) -> Iterator[Hashable]:
        """Yield each key of the transform that the data have.

        Raises:
            KeyError: a key is missing and ``allow_missing_keys`` is False.
        """
        for key in self.keys:
            if key in data:
                yield key
            elif not self.allow_missing_keys:
                raise KeyError(f"{type(self).__name__} needs the key {key!r}, which the data lack.")

    @abstractmethod
    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of the data with the images under the keys transformed."""


class Compose:
    """Sequence of transforms, each applied to the result of the one before.

    Args:
        transforms: functions from data to data.

    Attributes:
        transforms: the functions.
    """

    def __init__(self, transforms: Sequence[Callable[[Any], Any]]) -> None:
        self.transforms = tuple(transforms)

    def __call__(self, data: Any) -> Any:
        """Apply all transforms in order."""
        for transform in self.transforms:
            data = transform(data)
        return data


if "monai.transforms" in sys.modules:
    from monai.transforms import MapTransform

    MapTransform.register(KeyedTransform)
