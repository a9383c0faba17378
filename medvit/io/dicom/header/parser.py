"""Parser of the few header values that preflight needs, on a file's first bytes (PS3.5 7, PS3.10 7).

Nearly every file is little endian and consists of plain elements in sequence; the parser skips them by their lengths,
without creating an object for each. Files with any other encoding are read by pydicom, which supports all encodings.

medvit keeps this parser beside pydicom's ``dcmread(specific_tags=..., stop_before_pixels=True)`` because pydicom takes
9.2 times as much processor time for the same tags of the same 10,000 headers, and 5.9 times including the records of
planes that preflight makes of them (``python benchmarks/header_reading.py``). pydicom also decompresses a deflated file
as a whole.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from pydicom.dataelem import RawDataElement
from pydicom.filereader import read_partial

__all__ = ["DamagedError", "Elements", "HeaderTooLargeError", "read_elements"]

_LAST_WANTED = 0x0028FFFF
"""Last tag of the image pixel group, after which reading stops; all values that preflight needs precede it."""

_FIRST_BYTES = 8192
"""Bytes read at first, which contain most headers; each further attempt reads eight times as many."""

_MOST_BYTES = 2**20
"""Largest header parsed here, in bytes; pydicom reads longer ones without keeping them in memory."""

_MOST_UNPACKED = 2**26
"""Largest decompressed header of a deflated file, in bytes; a file with more is damaged or hostile."""

_DEEPEST = 64
"""Deepest nesting of sequences that is skipped here; pydicom reads deeper ones and reports where it fails."""

_META = {0x00020010: b"UI", 0x00020002: b"UI"}
"""TransferSyntaxUID and MediaStorageSOPClassUID."""

_LONG = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
"""Value representations with a length of four bytes (PS3.5 7.1.2)."""
_SHORT = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
"""Value representations with a length of two bytes (PS3.5 7.1.2)."""

_TEXT = frozenset(b"AE AS CS DA DS DT IS LO LT PN SH ST TM UC UI UR UT".split())

_IMPLICIT, _BIG_ENDIAN, _DEFLATED = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
_UNDEFINED, _ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFFFFFF, 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD

_explicit = struct.Struct("<HH2sH").unpack_from
_implicit = struct.Struct("<HHL").unpack_from
_length = struct.Struct("<L").unpack_from


class DamagedError(Exception):
    """A DICOM file whose header cannot be read; ``args[0]`` is the reason, without values of the header."""


class HeaderTooLargeError(Exception):
    """A deflated file whose header decompresses to more than any valid header."""


@dataclass(frozen=True, slots=True)
class Elements:
    """Top-level values of a header.

    Attributes:
        values: values by tag: text as bytes, numbers as numbers.
        syntax: TransferSyntaxUID; empty where the file states none.
        media: MediaStorageSOPClassUID.
        end: offset at which the header ends, in bytes; further groups or pixels follow.
    """

    values: Mapping[int, Any]
    syntax: str
    media: str
    end: int


class _UnusualError(Exception):
    """An encoding that only pydicom reads."""


class _ShortError(Exception):
    """A header that continues beyond the bytes read so far."""


class _DeflatedError(Exception):
    """A deflated file; ``args[0]`` is the offset of the deflated data."""


def read_elements(stream: BinaryIO, first: bytes, wanted: Mapping[int, bytes]) -> Elements:
    """Read the wanted values of a DICOM file.

    Args:
        stream: the file, read up to the end of ``first``.
        first: its first bytes.
        wanted: value representation of each wanted tag, up to the group 0028.

    Raises:
        HeaderTooLargeError: the header of a deflated file decompresses to more than any valid header.
        Exception: any error of pydicom for damaged files.
    """
    content, size = first, _FIRST_BYTES
    if content[128:132] == b"DICM":
        while size <= _MOST_BYTES:
            content += stream.read(size - len(content))
            try:
                return _plain(content, wanted, whole=len(content) < size)
            except _ShortError:
                size *= 8
            except _DeflatedError as found:
                return _inflated(content[found.args[0] :] + stream.read(), wanted)
            except _UnusualError:
                break
    return _by_pydicom(stream, wanted, force=content[128:132] != b"DICM")


def _plain(content: bytes, wanted: Mapping[int, bytes], whole: bool) -> Elements:
    """Read the values of a file with a preamble, little endian and not deflated."""
    meta: dict[int, Any] = {}
    at = _walk(content, 132, _META, meta, whole, explicit=True, last=0x0002FFFF)
    syntax, media = (meta.get(tag, b"").decode("latin-1").strip(" \0") for tag in _META)
    if syntax == _DEFLATED:
        raise _DeflatedError(at)
    if not syntax.startswith(_IMPLICIT) or syntax == _BIG_ENDIAN:
        raise _UnusualError
    explicit = syntax != _IMPLICIT
    if not explicit and content[at + 4 : at + 6] in _LONG | _SHORT:
        raise _UnusualError  # states implicit VR but is explicit
    values: dict[int, Any] = {}
    end = _walk(content, at, wanted, values, whole, explicit, _LAST_WANTED)
    return Elements(values, syntax, media, end)


def _inflated(packed: bytes, wanted: Mapping[int, bytes]) -> Elements:
    """Read the values of a deflated data set (PS3.5 A.5); decompress no more than a header may need."""
    unpacking = zlib.decompressobj(-zlib.MAX_WBITS)
    content = unpacking.decompress(packed, _MOST_UNPACKED)
    values: dict[int, Any] = {}
    try:
        end = _walk(content, 0, wanted, values, unpacking.eof, True, _LAST_WANTED)
    except _ShortError:
        raise HeaderTooLargeError from None
    return Elements(values, _DEFLATED, "", end)


def _walk(
    content: bytes,
    at: int,
    wanted: Mapping[int, bytes],
    found: dict[int, Any],
    whole: bool,
    explicit: bool,
    last: int,
) -> int:
    """Step from element to element and keep the wanted values; return the offset of the first element beyond ``last``."""
    size = len(content)
    while True:
        if at + 8 > size:
            if whole and at == size:
                return at
            raise _UnusualError if whole else _ShortError
        if explicit:
            group, element, vr, length = _explicit(content, at)
            tag = group << 16 | element
            if tag > last:
                return at
            start = at + 8
            if vr not in _SHORT:
                if vr not in _LONG:
                    raise _UnusualError
                start = at + 12
                if start > size:
                    raise _UnusualError if whole else _ShortError
                (length,) = _length(content, at + 8)
        else:
            group, element, length = _implicit(content, at)
            tag = group << 16 | element
            if tag > last:
                return at
            start, vr = at + 8, b"SQ"
        if length == _UNDEFINED:
            if vr != b"SQ":
                raise _UnusualError
            at = _behind(content, start, explicit, whole)
            if tag in wanted:
                found[tag] = b""  # present; its content is not needed
            continue
        at = start + length
        if at > size:
            raise _UnusualError if whole else _ShortError
        if tag in wanted:
            if explicit and vr != wanted[tag]:
                raise _UnusualError
            found[tag] = _stored(content[start:at], wanted[tag], "<")


def _behind(content: bytes, at: int, explicit: bool, whole: bool) -> int:
    """Return the offset behind a sequence of undefined length whose first item is at ``at`` (PS3.5 7.5)."""
    size, inside = len(content), [False]  # for each level, True for an item, False for a sequence
    while inside:
        if at + 12 > size and not (at + 8 <= size and whole):
            raise _UnusualError if whole else _ShortError
        group, element, length = _implicit(content, at)
        tag = group << 16 | element
        if tag in (_SEQUENCE_END, _ITEM_END):
            if inside.pop() != (tag == _ITEM_END):
                raise _UnusualError
            at += 8
            continue
        start = at + 8
        if not inside[-1]:
            if tag != _ITEM:
                raise _UnusualError
        elif explicit:
            vr = content[at + 4 : at + 6]
            if vr in _SHORT:
                length = length >> 16
            elif vr in _LONG and at + 12 <= size and (vr == b"SQ" or _length(content, at + 8)[0] != _UNDEFINED):
                (length,), start = _length(content, at + 8), at + 12
            else:
                raise _UnusualError
        if length != _UNDEFINED:
            at = start + length
        elif len(inside) < _DEEPEST:
            inside.append(not inside[-1])
            at = start
        else:
            raise _UnusualError
    return at


def _stored(value: bytes, vr: bytes, order: str) -> Any:
    """Convert binary numbers; return other values unchanged."""
    if vr == b"US" and len(value) >= 2:
        return struct.unpack_from(order + "H", value)[0]
    if vr == b"FD" and len(value) >= 8:
        return struct.unpack_from(order + "d", value)[0]
    return value


def _by_pydicom(stream: BinaryIO, wanted: Mapping[int, bytes], force: bool) -> Elements:
    stream.seek(0)
    header = read_partial(stream, _beyond, force=force)
    values: dict[int, Any] = {}
    for tag, element in header.items():  # raw elements; indexing the data set would convert each one
        if tag in wanted:
            value, vr = element.value, element.VR or ""
            if type(value) is bytes and isinstance(element, RawDataElement) and vr.encode() not in _TEXT:
                value = _stored(value, wanted[tag], "<" if element.is_little_endian else ">")
            values[int(tag)] = value
    meta = header.file_meta
    syntax, media = (str(meta[t].value or "").strip(" \0") if t in meta else "" for t in _META)
    return Elements(values, syntax, media, stream.tell())


def _beyond(tag: Any, vr: str | None, length: int) -> bool:
    return int.__gt__(tag, _LAST_WANTED)
