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
from pydicom.dataelem import RawDataElement
from pydicom.valuerep import DSfloat

from medvit.io.dicom.write.element_bytes import ElementBytes

__all__ = [
    "Frame",
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
_SOURCES, _REFERENCED_SERIES = 0x00082112, 0x00081115
_SOP_CLASS, _INSTANCE, _SERIES, _INSTANCES = 0x00081150, 0x00081155, 0x0020000E, 0x0008114A

_ENCODE = ElementBytes()


def encoded_position(position: Sequence[DSfloat]) -> bytes:
    """Return PlanePositionSequence with an ImagePositionPatient."""
    return _ENCODE.sequence(_PLACE, [_ENCODE.text(_POSITION, "DS", "\\".join(map(str, position)))])


def raw_references(references: Mapping[str, Sequence[tuple[str, str]]]) -> tuple[RawDataElement, RawDataElement]:
    """Return SourceImageSequence and ReferencedSeriesSequence, encoded.

    Args:
        references: by SeriesInstanceUID, class and UID of each instance.
    """
    by_series = {
        uid: [
            _ENCODE.text(_SOP_CLASS, "UI", kind) + _ENCODE.text(_INSTANCE, "UI", instance) for kind, instance in found
        ]
        for uid, found in references.items()
    }
    series = [
        _ENCODE.sequence(_INSTANCES, items) + _ENCODE.text(_SERIES, "UI", uid) for uid, items in by_series.items()
    ]
    sources = [item for items in by_series.values() for item in items]
    return _ENCODE.raw(_SOURCES, sources), _ENCODE.raw(_REFERENCED_SERIES, series)


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
        values = _ENCODE.element(_INDICES, "UL", struct.pack("<LL", number, ranks[k]))  # segment, then slice
        content = _ENCODE.sequence(_CONTENT, [values])
        items.append(_ENCODE.item(derivations[k] + content + positions[k] + segments[number]))
    file.write(_ENCODE.head(_PER_FRAME, "SQ", sum(map(len, items))))
    file.writelines(items)


def _segment(number: int) -> bytes:
    return _ENCODE.sequence(_IDENTIFICATION, [_ENCODE.element(_NUMBER, "US", struct.pack("<H", number))])


def write_pixels(file: BinaryIO, masks: Iterable[NDArray[np.bool_]], count: int, pixels: int) -> None:
    """Append PixelData of single bits to a file.

    Args:
        file: the file, written up to the element before.
        masks: the mask of each frame, (row, column).
        count: number of frames.
        pixels: number of pixels of a frame.
    """
    size = -(-count * pixels // 8)
    file.write(_ENCODE.head(_PIXELS, "OB", size + size % 2))
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
