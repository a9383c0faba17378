"""Stored pixels of a DICOM file: reading, checks of stated sizes, and decoding (PS3.5 8)."""

from __future__ import annotations

import os
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from medvit.errors import ImageError, MedvitError, SourceError
from medvit.io.dicom.header import PlaneHeader, count_unpacked
from medvit.io.dicom.pixels.decoders import ITK_ONLY, decoding_plugin
from medvit.io.files import unreadable
from medvit.io.stated_sizes import picture_size

__all__ = ["decode_plane", "open_plane"]

_CODE_HEAD = 2**16
"""Number of leading bytes of a compressed frame that contain its own header."""

_BESIDE_PIXELS = 2**28
"""Bytes allowed for the header and private elements of a deflated file, in addition to its pixels."""

_PIXEL_MODULE = (
    "Rows Columns SamplesPerPixel PhotometricInterpretation BitsAllocated BitsStored HighBit PixelRepresentation"
).split()
"""Attributes that state how pixels are packed (PS3.3 C.7.6.3)."""


def open_plane(plane: PlaneHeader) -> Dataset:
    """Read the file of a plane; check its decompressed size and the sizes of its frames against its header.

    Raises:
        SourceError: the file is cut off, damaged, or decompresses to far more than its image needs.
        ImageError: the size of a compressed frame differs from the header.
    """
    file = plane.file
    try:
        content = file.read()
        if plane.syntax == DeflatedExplicitVRLittleEndian:
            _refuse_bomb(content, plane)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(BytesIO(content), force=True)
        if not dataset.file_meta.get("TransferSyntaxUID"):  # no preamble: pydicom has detected the encoding
            implicit, little = dataset.original_encoding
            native = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
            dataset.file_meta.TransferSyntaxUID = native
        _check_frames(dataset, plane)
        return dataset
    except (MemoryError, KeyboardInterrupt, MedvitError, zipfile.BadZipFile):
        raise
    except OSError as error:
        raise unreadable(file.name, error) from error
    except Exception as error:
        raise _unread(file.name, error) from error


def _check_frames(dataset: Dataset, plane: PlaneHeader) -> None:
    """Refuse compressed frames that state another size than the header; a decoder would trust the frame."""
    from pydicom.encaps import generate_frames

    if not dataset.file_meta.TransferSyntaxUID.is_encapsulated or "PixelData" not in dataset:
        return
    for frame in generate_frames(dataset.PixelData, number_of_frames=plane.frames):
        stated = picture_size(frame[:_CODE_HEAD])
        if stated not in (None, (plane.rows, plane.columns)):
            raise ImageError(
                f"{plane.file.name} with compressed pixels of {stated[0]} x {stated[1]}",
                f"{plane.rows} x {plane.columns} is stated in its header",
                "Export it again.",
            )


def _refuse_bomb(content: bytes, plane: PlaneHeader) -> None:
    """Refuse a deflated file that decompresses to far more than its image needs, since it is decompressed in memory."""
    needed = plane.rows * plane.columns * plane.samples * plane.bits // 8 * plane.frames
    limit = needed + _BESIDE_PIXELS
    if count_unpacked(BytesIO(content), limit) > limit:
        raise SourceError(
            f"{plane.file.name}, a deflated file that unpacks to more than {limit // 2**20} MiB",
            f"its image needs {needed / 2**20:.1f}",
            "Do not trust this file: ask for another.",
        )


def decode_plane(dataset: Dataset, plane: PlaneHeader) -> NDArray[Any]:
    """Decode the stored values of one plane: (row, column) or, in colour, (row, column, RGB).

    Raises:
        SourceError: the pixels cannot be decoded.
        ImageError: the decoded shape differs from the header.
    """
    from pydicom.pixels import pixel_array

    plugin = decoding_plugin(plane.syntax)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's warnings about lengths are harmless, or decoding fails below
            if plane.syntax in ITK_ONLY:
                stored = _by_itk(dataset, plane.frame or 0)
            elif _shifted(dataset, plane) and plane.samples == 1:
                whole = pixel_array(_as_cells(dataset, plane), index=plane.frame or 0, decoding_plugin=plugin)
                stored = _shift(whole, plane, signed=bool(dataset.get("PixelRepresentation", 0)))
            else:
                stored = pixel_array(dataset, index=plane.frame or 0, decoding_plugin=plugin)
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:
        raise _unread(plane.file.name, error) from error
    if stored.shape[:2] != (plane.rows, plane.columns):
        raise ImageError(
            f"{plane.file.name} with pixels of shape {stored.shape}",
            f"{(plane.rows, plane.columns)} is stated in its header",
            "Export it again.",
        )
    return np.asarray(stored)


def _shifted(dataset: Dataset, plane: PlaneHeader) -> bool:
    """Return True if a pixel lies above the lowest bits of its cell (PS3.5 8.1.1).

    Uncompressed and run-length coded files store whole cells; other compressed files do so if the stream has more bits
    than a pixel.
    """
    bits, high = plane.packing
    if not bits <= high < plane.bits:
        return False
    syntax = dataset.file_meta.TransferSyntaxUID
    if not syntax.is_encapsulated or syntax == RLELossless:
        return True
    from pydicom.encaps import get_frame

    frame = get_frame(dataset.PixelData, plane.frame or 0, number_of_frames=plane.frames)
    return _precision(frame) > bits


def _precision(stream: bytes) -> int:
    """Read the bits of a sample in a JPEG, JPEG-LS or JPEG 2000 stream; 0 where it states none."""
    if stream[:4] == b"\xff\x4f\xff\x51":  # JPEG 2000: SOC, SIZ with the depth of the first component at byte 42
        return (stream[42] & 0x7F) + 1
    at = 2
    while at + 5 <= len(stream) and stream[at] == 0xFF:
        marker = stream[at + 1]
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            return stream[at + 4]
        at += 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
    return 0


def _as_cells(dataset: Dataset, plane: PlaneHeader) -> Dataset:
    """Return a data set that describes the pixels as wide as their cells, so that decoders keep all bits."""
    made = Dataset()
    for keyword in (*_PIXEL_MODULE, "NumberOfFrames", "PixelData"):
        if keyword in dataset and keyword not in ("BitsStored", "HighBit"):
            made[keyword] = dataset[keyword]  # the element is shared with the source; do not change it
    made.file_meta = dataset.file_meta
    made.BitsStored, made.HighBit = plane.bits, plane.bits - 1
    return made


def _shift(cells: NDArray[Any], plane: PlaneHeader, signed: bool) -> NDArray[Any]:
    """Extract each pixel from its cell as DCMTK does: shift down, clear other bits, extend the sign."""
    bits, high = plane.packing
    plain = (cells.astype(np.int64) >> (high + 1 - bits)) & (2**bits - 1)
    if signed:
        plain -= (plain >> (bits - 1)) << bits
    pixels: NDArray[Any] = plain.astype(cells.dtype)
    return pixels


def _by_itk(dataset: Dataset, frame: int) -> NDArray[Any]:
    """Decode 12-bit lossy JPEG with ITK's GDCM, from a temporary file that contains the pixels and no patient data."""
    import SimpleITK as sitk
    from pydicom.encaps import encapsulate, get_frame

    count = int(dataset.get("NumberOfFrames", 1) or 1)
    bare = Dataset()
    for keyword in _PIXEL_MODULE:
        bare[keyword] = dataset[keyword]
    bare.SOPClassUID, bare.SOPInstanceUID, bare.Modality = "1.2.840.10008.5.1.4.1.1.2", "1.2.3", "CT"
    bare.PixelData = encapsulate([get_frame(dataset.PixelData, frame, number_of_frames=count)])
    bare["PixelData"].VR = "OB"
    bare["PixelData"].is_undefined_length = True
    bare.file_meta = FileMetaDataset()
    bare.file_meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    bare.file_meta.MediaStorageSOPClassUID, bare.file_meta.MediaStorageSOPInstanceUID = bare.SOPClassUID, "1.2.3"
    with tempfile.TemporaryDirectory(prefix="medvit-") as folder:
        path = Path(folder) / "frame.dcm"
        bare.save_as(path, enforce_file_format=True)
        with _hushed():
            read: NDArray[Any] = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    return read[0] if read.ndim > 2 else read


@contextmanager
def _hushed() -> Iterator[None]:
    """Silence stderr: the C library first tries 8 bits and writes its warning directly to the terminal."""
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _unread(name: str, error: Exception) -> SourceError:
    """Create the error for a file whose pixels cannot be read, with what other libraries say of it."""
    text = (str(error).strip().splitlines() or [""])[0][:200].rstrip(".")
    cut = ("less than expected", "less data", "length", "end of file", "EOF")
    whole = "Every slice must be complete: export or copy the series again."
    if isinstance(error, (EOFError, zlib.error)) or any(word in text for word in cut):
        why, remedy = "the file is cut off", whole
    elif isinstance(error, RecursionError):
        why = "its sequences are nested too deep"
        remedy = "Export the series again, or remove its private elements."
    elif isinstance(error, AttributeError) and "required element" in text:
        why = f"{text[0].lower()}{text[1:]}"
        remedy = "Every slice must say how its pixels are packed: export the series again."
    elif isinstance(error, AttributeError):
        why, remedy = "it holds no pixel data", whole
    else:
        why = text
        remedy = "Its pixel data are damaged or packed in an unusual way: export the series uncompressed."
    return SourceError(f"{name}, whose pixels cannot be read: {why}", remedy=remedy)
