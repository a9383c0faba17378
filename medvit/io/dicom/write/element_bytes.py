"""Bytes of data elements in little endian, explicit or implicit VR (PS3.5 7.1), without a data set for each item."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.tag import BaseTag

__all__ = ["ElementBytes"]

_ITEM = 0xFFFEE000
_LONG = ("OB", "OW", "SQ", "UN", "UT")
"""Value representations with a length of four bytes."""


@dataclass(frozen=True)
class ElementBytes:
    """Encoder of data elements.

    Attributes:
        explicit: True for explicit VR.
    """

    explicit: bool = True

    def head(self, tag: int, vr: str, length: int) -> bytes:
        """Return tag, VR and length of an element."""
        place = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
        if not self.explicit:
            return place + struct.pack("<L", length)
        if vr in _LONG:
            return place + vr.encode() + struct.pack("<HL", 0, length)
        return place + vr.encode() + struct.pack("<H", length)

    def element(self, tag: int, vr: str, content: bytes) -> bytes:
        """Return an element; its content has an even length."""
        return self.head(tag, vr, len(content)) + content

    def text(self, tag: int, vr: str, value: str) -> bytes:
        """Return an element of ASCII text, padded to an even length."""
        content = value.encode("ascii")
        if len(content) % 2:
            content += b"\0" if vr == "UI" else b" "
        return self.element(tag, vr, content)

    def item(self, content: bytes) -> bytes:
        """Return an item of a sequence."""
        return struct.pack("<HHL", _ITEM >> 16, _ITEM & 0xFFFF, len(content)) + content

    def sequence(self, tag: int, contents: Iterable[bytes]) -> bytes:
        """Return a sequence, from the elements of each item."""
        return self.element(tag, "SQ", b"".join([self.item(content) for content in contents]))

    def raw(self, tag: int, contents: Iterable[bytes]) -> RawDataElement:
        """Return a sequence to put in a data set that is written in the same syntax."""
        content = b"".join([self.item(content) for content in contents])
        return RawDataElement(BaseTag(tag), "SQ", len(content), content, 0, not self.explicit, True)

    def group(self, dataset: Dataset) -> bytes:
        """Return the elements of a data set, encoded by pydicom."""
        stream = DicomBytesIO()
        stream.is_little_endian, stream.is_implicit_VR = True, not self.explicit
        write_dataset(stream, dataset)
        return bytes(stream.getvalue())
