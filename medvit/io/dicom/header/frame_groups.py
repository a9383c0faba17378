"""Functional groups of the frames of a multi-frame object, parsed once for each distinct content (PS3.3 C.7.6.16).

A SEG of a hundred labels has thousands of frames, but only as many positions as its source has slices. pydicom parses the
groups of each frame again; here the bytes of an element are compared first.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from io import BytesIO

from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.filereader import read_dataset

__all__ = ["FrameGroups"]

_PER_FRAME = 0x52009230
_ITEM, _UNDEFINED = 0xFFFEE000, 0xFFFFFFFF
_LONG = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
"""Value representations with a length of four bytes (PS3.5 7.1.2)."""

_head = struct.Struct("<HHL").unpack_from
_length = struct.Struct("<L").unpack_from


class FrameGroups:
    """Functional groups of each frame, in stored order.

    Args:
        dataset: the object, as pydicom has read it; a sequence that pydicom has not parsed yet stays unparsed.
    """

    def __init__(self, dataset: Dataset) -> None:
        raw = dataset.get_item(_PER_FRAME) if _PER_FRAME in dataset else None
        self._made: dict[bytes, Dataset] = {}
        self._items: list[dict[int, bytes]] = []
        self._parsed: Sequence[Dataset] = ()
        self._explicit = True
        if isinstance(raw, RawDataElement) and isinstance(raw.value, bytes) and raw.is_little_endian:
            try:
                self._explicit = not raw.is_implicit_VR
                self._items = [self._elements(raw.value, *bounds) for bounds in _items(raw.value)]
                return
            except (_UnusualError, struct.error):
                self._items = []
        self._parsed = dataset.get("PerFrameFunctionalGroupsSequence") or []

    def __len__(self) -> int:
        return len(self._items) or len(self._parsed)

    def has(self, tag: int) -> bool:
        """Return True if any frame has an element."""
        return any(tag in item for item in self._items) or any(tag in item for item in self._parsed)

    def part(self, frame: int, tags: Sequence[int]) -> Dataset:
        """Return the groups of a frame with the given tags; frames with equal bytes share one data set.

        Where pydicom had to parse the groups, the data set has all of them.
        """
        if not self._items:
            return self._parsed[frame]
        item = self._items[frame]
        content = b"".join([item[tag] for tag in tags if tag in item])
        found = self._made.get(content)
        if found is None:
            found = read_dataset(BytesIO(content), not self._explicit, True)
            self._made[content] = found
        return found

    def _elements(self, content: bytes, at: int, end: int) -> dict[int, bytes]:
        """Return the elements of an item, each with its head, by tag."""
        found = {}
        while at < end:
            group, element, size = _head(content, at)
            start = at + 8
            if self._explicit:
                vr = content[at + 4 : at + 6]
                if vr in _LONG:
                    (size,), start = _length(content, at + 8), at + 12
                else:
                    size >>= 16
            if size == _UNDEFINED or start + size > end:
                raise _UnusualError
            found[group << 16 | element] = content[at : start + size]
            at = start + size
        return found


class _UnusualError(Exception):
    """An encoding that only pydicom reads."""


def _items(content: bytes) -> Iterator[tuple[int, int]]:
    """Yield the bounds of each item of a sequence."""
    at = 0
    while at < len(content):
        group, element, size = _head(content, at)
        if group << 16 | element != _ITEM or size == _UNDEFINED or at + 8 + size > len(content):
            raise _UnusualError
        yield at + 8, at + 8 + size
        at += 8 + size
