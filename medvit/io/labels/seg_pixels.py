"""Pixels of a SEG, frame by frame (PS3.5 8); frames of single bits are cut to the part that is not 0 while they are packed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.pixels import iter_pixels

from medvit.errors import SourceError
from medvit.io.dicom.pixels import decoding_plugin

__all__ = ["FramePart", "frame_pixels"]

FramePart = tuple[tuple[int, int, int], NDArray[Any]]
"""A part of a frame: its start (column, row, 0) and its pixels, (row, column)."""


def frame_pixels(dataset: Dataset, count: int) -> Iterator[FramePart]:
    """Yield frames one at a time, since a whole SEG of a hundred segments does not fit in memory.

    A frame of single bits may be cut to the part that is not 0: its start (column, row, 0) and its pixels, (row, column).
    """
    given = 0
    syntax = dataset.file_meta.TransferSyntaxUID
    bits = int(dataset.BitsAllocated) == 1 and not syntax.is_compressed and syntax.is_little_endian
    try:
        for frame in (
            _unpacked(dataset, count)
            if bits
            else (((0, 0, 0), f) for f in iter_pixels(dataset, decoding_plugin=decoding_plugin(syntax)))
        ):
            yield frame
            given += 1
    except (ValueError, EOFError, RuntimeError, IndexError) as error:
        raise SourceError(
            (
                f"a SEG whose pixels end or cannot be decoded after {given} of {count} frames "
                f"({(str(error).splitlines() or [''])[0][:100]})"
            ),
            "all frames are needed",
            "Copy or export it again.",
        ) from error


def _unpacked(dataset: Dataset, count: int) -> Iterator[FramePart]:
    """Yield frames of single bits, which follow each other without a gap, so that a frame may begin within a byte
    (PS3.5 8.2).
    """
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    content = np.frombuffer(dataset.PixelData, np.uint8)
    size = rows * columns
    for place in range(count):
        first, last = place * size, (place + 1) * size
        if -(-last // 8) > len(content):
            raise EOFError(f"{len(content)} bytes where {-(-count * size // 8)} are stated")
        if columns % 8 == 0:
            yield _unpacked_part(content[first // 8 : last // 8].reshape(rows, columns // 8))
        else:
            found = np.unpackbits(content[first // 8 : -(-last // 8)], bitorder="little")
            yield (0, 0, 0), found[first % 8 : first % 8 + size].reshape(rows, columns)


def _unpacked_part(packed: NDArray[np.uint8]) -> FramePart:
    """Unpack the rows and bytes between the first and the last that are not 0; nothing for an empty frame."""
    rows = np.flatnonzero(packed.any(1))
    if not len(rows):
        return (0, 0, 0), np.zeros((0, 0), np.uint8)
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    filled = np.flatnonzero(packed[top:bottom].any(0))
    left, right = int(filled[0]), int(filled[-1]) + 1
    part = np.unpackbits(packed[top:bottom, left:right], axis=1, bitorder="little")
    return (left * 8, top, 0), part
