"""Opening DICOM files of others with pydicom, which unpacks deflated ones whole before it looks at them.

Deflate packs a thousandfold at most (RFC 1951), so a file of a few megabytes may unpack to gigabytes. What a deflated file
unpacks to is counted first, without keeping it, and judged against the memory limit.
"""

from __future__ import annotations

import os
import zlib
from typing import Any, BinaryIO

import pydicom
from pydicom import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian

from medvit.errors import TooLargeError
from medvit.io.memory_limits import memory_limit, say_bytes

__all__ = ["check_deflated", "count_unpacked", "read_dataset"]

_STEP = 2**22
"""Bytes unpacked at a time while counting."""

_COPIES = 3
"""pydicom holds an unpacked file as chunks, joined, and as the values of its elements."""

_HEAD = 2**16
"""Bytes that hold the file meta group of any file."""

_META_GROUP, _SYNTAX = b"\x02\x00", b"\x10\x00"
"""The group of the file meta elements and, in it, TransferSyntaxUID."""

_WIDE = (b"OB", b"OW", b"SQ", b"UN", b"UT")
"""Value representations with four bytes of length among file meta elements (PS3.5 7.1.2)."""


def read_dataset(source: str | os.PathLike[str] | BinaryIO, **options: Any) -> Dataset:
    """Read a DICOM file as ``pydicom.dcmread`` does, but refuse a deflated one that unpacks to more than the limit.

    Args:
        source: path or binary file at its start.
        options: as ``pydicom.dcmread`` takes them.

    Raises:
        TooLargeError: it unpacks to more than the memory limit allows; and whatever pydicom raises.
    """
    if isinstance(source, (str, os.PathLike)):
        with open(source, "rb") as file:
            check_deflated(file)
        return pydicom.dcmread(source, **options)
    check_deflated(source)
    return pydicom.dcmread(source, **options)


def check_deflated(file: BinaryIO) -> None:
    """Refuse a deflated file that unpacks to more than the limit; others pass. The file is left at its start.

    Args:
        file: a DICOM file at its start, which can be read twice.

    Raises:
        TooLargeError: why.
    """
    limit = memory_limit()
    most = limit // _COPIES
    if count_unpacked(file, most) > most:
        raise TooLargeError(
            f"Found a deflated DICOM file that unpacks to more than {say_bytes(most)}; reading takes {_COPIES} times as much memory, and the "
            f"limit is {say_bytes(limit)}. Do not trust this file: ask for another, or raise the limit with --memory-limit."
        )


def _deflated_from(start: bytes) -> int | None:
    """Find where the deflated part of a file begins (PS3.5 A.5); None for files that are not deflated."""
    if start[128:132] != b"DICM":
        return None
    at, deflated = 132, False
    while start[at : at + 2] == _META_GROUP:  # explicit little endian, whatever follows (PS3.10 7.1)
        tag, kind = start[at + 2 : at + 4], start[at + 4 : at + 6]
        wide = kind in _WIDE
        begin = at + (12 if wide else 8)
        length = int.from_bytes(start[begin - 4 : begin] if wide else start[begin - 2 : begin], "little")
        if tag == _SYNTAX:
            deflated = start[begin : begin + length].rstrip(b"\0 ") == DeflatedExplicitVRLittleEndian.encode()
        at = begin + length
    return at if deflated else None


def count_unpacked(file: BinaryIO, most: int) -> int:
    """Count the bytes that the deflated part of a file unpacks to, without keeping them. The file is left at its start.

    Args:
        file: a DICOM file at its start, which can be read twice.
        most: counting stops a little above so many bytes.

    Returns:
        The count; 0 for a file that is not deflated.
    """
    packed_from = _deflated_from(file.read(_HEAD))
    if packed_from is None:
        file.seek(0)
        return 0
    file.seek(packed_from)
    size = _count_rest(file, most)
    file.seek(0)
    return size


def _count_rest(file: BinaryIO, most: int) -> int:
    unpacking, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
    packed = file.read(_STEP)
    while packed and not unpacking.eof and size <= most:
        try:
            size += len(unpacking.decompress(packed, _STEP))
        except zlib.error:  # damaged: the reader says so
            return size
        packed = unpacking.unconsumed_tail or file.read(_STEP)
    return size
