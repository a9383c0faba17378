"""Reading of DICOM files with pydicom, which decompresses a deflated file as a whole before it parses it.

Deflate compresses at most about a thousandfold (RFC 1951), so a file of a few megabytes may decompress to gigabytes.
The decompressed size of a deflated file is therefore counted first, without keeping the data, and compared with the
memory limit.
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
"""Bytes decompressed at a time while counting."""

_COPIES = 3
"""Copies of a decompressed file that pydicom holds: as chunks, joined, and as the values of its elements."""

_HEAD = 2**16
"""Number of leading bytes that contain the file meta group of any file."""

_META_GROUP, _SYNTAX = b"\x02\x00", b"\x10\x00"
"""Group number of the file meta elements, and element number of TransferSyntaxUID in it."""

_WIDE = (b"OB", b"OW", b"SQ", b"UN", b"UT")
"""Value representations of file meta elements with a length of four bytes (PS3.5 7.1.2)."""


def read_dataset(source: str | os.PathLike[str] | BinaryIO, **options: Any) -> Dataset:
    """Read a DICOM file as ``pydicom.dcmread`` does, but refuse a deflated file that decompresses to more than the
    limit.

    Args:
        source: path, or binary file at its start.
        options: as for ``pydicom.dcmread``.

    Raises:
        TooLargeError: the file decompresses to more than the memory limit allows.
        Exception: any error of pydicom.
    """
    if isinstance(source, (str, os.PathLike)):
        with open(source, "rb") as file:
            check_deflated(file)
        return pydicom.dcmread(source, **options)
    check_deflated(source)
    return pydicom.dcmread(source, **options)


def check_deflated(file: BinaryIO) -> None:
    """Refuse a deflated file that decompresses to more than the limit; other files pass. The file is left at its start.

    Args:
        file: a seekable DICOM file at its start.

    Raises:
        TooLargeError: the file decompresses to more than the memory limit allows.
    """
    limit = memory_limit()
    most = limit // _COPIES
    if count_unpacked(file, most) > most:
        raise TooLargeError(
            f"a deflated DICOM file that unpacks to more than {say_bytes(most)}",
            f"reading takes {_COPIES} times as much memory, and the limit is {say_bytes(limit)}",
            "Do not trust this file: ask for another, or raise the limit with {medvit.io.limit_memory()}.",
            option="medvit.io.limit_memory()",
        )


def _deflated_from(start: bytes) -> int | None:
    """Return the offset of the deflated part of a file (PS3.5 A.5); None for files that are not deflated."""
    if start[128:132] != b"DICM":
        return None
    at, deflated = 132, False
    while start[at : at + 2] == _META_GROUP:  # always explicit little endian (PS3.10 7.1)
        tag, kind = start[at + 2 : at + 4], start[at + 4 : at + 6]
        wide = kind in _WIDE
        begin = at + (12 if wide else 8)
        length = int.from_bytes(start[begin - 4 : begin] if wide else start[begin - 2 : begin], "little")
        if tag == _SYNTAX:
            deflated = start[begin : begin + length].rstrip(b"\0 ") == DeflatedExplicitVRLittleEndian.encode()
        at = begin + length
    return at if deflated else None


def count_unpacked(file: BinaryIO, most: int) -> int:
    """Count the bytes to which the deflated part of a file decompresses, without keeping them. The file is left at its
    start.

    Args:
        file: a seekable DICOM file at its start.
        most: counting stops soon after this number of bytes.

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
        except zlib.error:  # a damaged file: the reader reports it
            return size
        packed = unpacking.unconsumed_tail or file.read(_STEP)
    return size
