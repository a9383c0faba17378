"""Encoder of RLE Lossless frames (PS3.5 Annex G), the one compression that every DICOM viewer and archive reads.

GDCM's encoder ends the whole process on some picture sizes, and pydicom's takes a tenth of a second for each picture;
this encoder takes a few milliseconds.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["encode_rle"]

_HEADER = 64
"""Bytes of the header, which states the number of segments and the offset of each."""


def encode_rle(picture: NDArray[np.uint8]) -> bytes:
    """Encode one frame: a header, then a segment for each colour, with rows encoded separately.

    Args:
        picture: (row, column, 3) RGB.
    """
    segments = [_padded(np.ascontiguousarray(picture[:, :, c])) for c in range(picture.shape[2])]
    starts = np.cumsum([_HEADER, *(len(s) for s in segments)])[:-1].tolist()
    header = struct.pack("<16I", len(segments), *starts, *[0] * (15 - len(segments)))
    return header + b"".join(segments)


def _padded(plane: NDArray[np.uint8]) -> bytes:
    # an encoded row of n bytes takes at most n bytes, and one more for each 128 of them
    room = np.empty(plane.shape[0] * (plane.shape[1] + plane.shape[1] // 128 + 1), np.uint8)
    content = room[: _pack(plane, room)].tobytes()
    return content + b"\0" * (len(content) % 2)


def _jit(function: Any) -> Any:
    """Compile a function: once for the machine if numba can cache the result, else once for each process."""
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError:
        return njit(nogil=True)(function)


@_jit
def _pack(plane: Any, out: Any) -> int:
    """Encode runs of at least three as (257 - length, value), other values as (length - 1, values); return the bytes
    written.
    """
    rows, columns = plane.shape
    at = 0
    for row in range(rows):
        i = 0
        while i < columns:
            run = 1
            while i + run < columns and run < 128 and plane[row, i + run] == plane[row, i]:
                run += 1
            if run >= 3:
                out[at], out[at + 1] = 257 - run, plane[row, i]
                at += 2
                i += run
                continue
            end = i + 1
            while end < columns and end - i < 128:
                if end + 2 < columns and plane[row, end] == plane[row, end + 1] == plane[row, end + 2]:
                    break
                end += 1
            out[at] = end - i - 1
            at += 1
            for j in range(i, end):
                out[at] = plane[row, j]
                at += 1
            i = end
    return at
