"""Encoding of the frames of a BINARY SEG: functional groups and single bits, in explicit VR little endian (PS3.5 7).

A SEG of a hundred labels has thousands of frames, which differ only in numbers of their segment and slice. The parts that
frames share are encoded once for each slice, and the bytes of all frames are joined from them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.tag import BaseTag
from pydicom.valuerep import DSfloat

__all__ = [
    "Frame",
    "encoded_group",
    "encoded_position",
    "pack_bits",
    "raw_references",
    "write_frame_groups",
    "write_pixels",
]

Frame = tuple[int, int]
"""Segment number from 1, and index of the slice in the array."""

_PER_FRAME, _PIXELS = 0x52009230, 0x7FE00010
_CONTENT, _INDICES = 0x00209111, 0x00209157
_IDENTIFICATION, _NUMBER = 0x0062000A, 0x0062000B
_PLACE, _POSITION = 0x00209113, 0x00200032
_SOP_CLASS, _INSTANCE, _SERIES, _INSTANCES = 0x00081150, 0x00081155, 0x0020000E, 0x0008114A
_ITEM = 0xFFFEE000


def _tag(tag: int) -> bytes:
    return struct.pack("<HH", tag >> 16, tag & 0xFFFF)


def _long(tag: int, vr: bytes, length: int) -> bytes:
    """Return the head of an element whose VR has a length of four bytes."""
    return _tag(tag) + vr + struct.pack("<HL", 0, length)


def _item(content: bytes) -> bytes:
    return _tag(_ITEM) + struct.pack("<L", len(content)) + content


def _sequence(tag: int, content: bytes) -> bytes:
    """Return a sequence of one item."""
    item = _item(content)
    return _long(tag, b"SQ", len(item)) + item


def _text(tag: int, vr: bytes, value: str, padding: bytes) -> bytes:
    """Return an element of ASCII text whose VR has a length of two bytes."""
    content = value.encode("ascii")
    content += padding * (len(content) % 2)
    return _tag(tag) + vr + struct.pack("<H", len(content)) + content


def encoded_position(position: Sequence[DSfloat]) -> bytes:
    """Return PlanePositionSequence with an ImagePositionPatient."""
    return _sequence(_PLACE, _text(_POSITION, b"DS", "\\".join(map(str, position)), b" "))


def raw_references(references: Mapping[str, Sequence[tuple[str, str]]]) -> tuple[RawDataElement, RawDataElement]:
    """Return SourceImageSequence and ReferencedSeriesSequence, encoded.

    Args:
        references: by SeriesInstanceUID, class and UID of each instance.
    """
    by_series = {
        uid: b"".join(
            _item(_text(_SOP_CLASS, b"UI", kind, b"\0") + _text(_INSTANCE, b"UI", instance, b"\0"))
            for kind, instance in instances
        )
        for uid, instances in references.items()
    }
    series = b"".join(
        _item(_long(_INSTANCES, b"SQ", len(content)) + content + _text(_SERIES, b"UI", uid, b"\0"))
        for uid, content in by_series.items()
    )
    return _raw(0x00082112, b"".join(by_series.values())), _raw(0x00081115, series)


def _raw(tag: int, content: bytes) -> RawDataElement:
    return RawDataElement(BaseTag(tag), "SQ", len(content), content, 0, False, True)


def encoded_group(group: Dataset) -> bytes:
    """Return the bytes of a data set in explicit VR little endian."""
    stream = DicomBytesIO()
    stream.is_little_endian, stream.is_implicit_VR = True, False
    write_dataset(stream, group)
    return bytes(stream.getvalue())


def write_frame_groups(
    file: BinaryIO,
    frames: Sequence[Frame],
    ranks: Sequence[int],
    derivations: Sequence[bytes],
    positions: Sequence[bytes],
    numbered: bool,
) -> None:
    """Append PerFrameFunctionalGroupsSequence to a file.

    Args:
        file: the file, written up to the element before.
        frames: segment and slice of each frame, in the order of the pixels.
        ranks: for each slice, its DimensionIndexValues entry, from 1.
        derivations: for each slice, the encoded DerivationImageSequence.
        positions: for each slice, the encoded PlanePositionSequence.
        numbered: True to state the segment in each frame; False where the shared groups state it.
    """
    segments = {number: _segment(number) if numbered else b"" for number in {number for number, _ in frames}}
    items = []
    for number, k in frames:
        # DimensionIndexValues (UL): segment, then slice
        values = _tag(_INDICES) + b"UL" + struct.pack("<HLL", 8, number, ranks[k])
        items.append(_item(derivations[k] + _sequence(_CONTENT, values) + positions[k] + segments[number]))
    file.write(_long(_PER_FRAME, b"SQ", sum(map(len, items))))
    file.writelines(items)


def _segment(number: int) -> bytes:
    return _sequence(_IDENTIFICATION, _tag(_NUMBER) + b"US" + struct.pack("<HH", 2, number))


def write_pixels(file: BinaryIO, masks: Iterable[NDArray[np.bool_]], count: int, pixels: int) -> None:
    """Append PixelData of single bits to a file.

    Args:
        file: the file, written up to the element before.
        masks: the mask of each frame, (row, column).
        count: number of frames.
        pixels: number of pixels of a frame.
    """
    size = -(-count * pixels // 8)
    file.write(_long(_PIXELS, b"OB", size + size % 2))
    file.writelines(pack_bits(masks))
    file.write(b"\0" * (size % 2))


def pack_bits(masks: Iterable[NDArray[np.bool_]]) -> Iterator[bytes]:
    """Pack masks to bits, the first pixel lowest; a mask begins at the bit after the one before it (PS3.5 8.2)."""
    rest = np.zeros(0, dtype=bool)
    for mask in masks:
        flat = np.concatenate([rest, mask.ravel()]) if rest.size else mask.ravel()
        whole = flat.size // 8 * 8
        yield np.packbits(flat[:whole], bitorder="little").tobytes()
        rest = flat[whole:]
    if rest.size:
        yield np.packbits(rest, bitorder="little").tobytes()
