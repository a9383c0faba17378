"""Stored pixels to real values: decoding, rescaling, inverted display and padding (PS3.3 C.7.6.3, C.7.6.16, C.11.1)."""

from __future__ import annotations

import os
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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
from medvit.io.decoders import ITK_ONLY
from medvit.io.enhanced import frame_scaling
from medvit.io.files import unreadable
from medvit.io.headers import Plane
from medvit.io.memory_limit import check_image_memory
from medvit.io.stated_sizes import picture_size

__all__ = ["AIR_HU", "Values", "plane_values", "real_values", "same_pixels", "sound_headers"]

AIR_HU = -1024.0
"""What CT shows outside its field of view."""

_CODE_HEAD = 2**16
"""Bytes of a compressed frame that hold its own header."""

_BESIDE_PIXELS = 2**28
"""Bytes that a header and private elements may take up beside the pixels of a deflated file."""

_PHILIPS_SLOPE = 0x2005100E
"""Philips' private MR Scale Slope, behind the creator "Philips MR Imaging DD 001" in block 10."""


_PIXEL_MODULE = (
    "Rows Columns SamplesPerPixel PhotometricInterpretation BitsAllocated BitsStored HighBit PixelRepresentation"
).split()
"""What says how pixels are packed (PS3.3 C.7.6.3)."""


@dataclass(frozen=True, eq=False)
class Values:
    """One plane's real values.

    Attributes:
        array: (row, column) float32, NaN where the header says padding.
        inverted: whether MONOCHROME1 was turned round.
        philips: whether Philips' own scaling was applied.
    """

    array: NDArray[np.float32]
    inverted: bool = False
    philips: bool = False


@contextmanager
def sound_headers() -> Iterator[None]:
    """A header value that cannot be read as what its tag promises becomes one of our errors."""
    try:
        yield
    except (MedvitError, MemoryError):
        raise
    except Exception as error:
        raise SourceError(
            f"Found a slice with a damaged header value ({type(error).__name__}: {str(error)[:80]}); position, "
            "orientation and spacing must be numbers. Export the series again."
        ) from error


def plane_values(planes: Sequence[Plane]) -> Iterator[tuple[Dataset, Values]]:
    """The full header (without its pixels) and the real values of each plane, in order.

    A multi-frame file is opened once for a run of its frames.

    Raises:
        SourceError: cut off, damaged or not decodable. ImageError: pixels of another shape than stated.
    """
    name, dataset = "", Dataset()
    if planes:
        first = planes[0]
        check_image_memory((first.rows, first.columns, len(planes)), "a DICOM image", values=max(1, first.samples))
    for plane in planes:
        if plane.frame is None or plane.file.name != name:
            name, dataset = plane.file.name, _open(plane)
        stored = decoded(dataset, plane)
        with sound_headers():
            yield dataset, real_values(stored, dataset, plane)


def _open(plane: Plane) -> Dataset:
    file = plane.file
    try:
        content = file.read()
        if plane.syntax == DeflatedExplicitVRLittleEndian:
            _refuse_bomb(content, plane)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(BytesIO(content), force=True)
        if not dataset.file_meta.get("TransferSyntaxUID"):  # files without a preamble: pydicom saw how they are written
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
        raise SourceError(f"Found {file.name}, whose pixels cannot be read: {_reason(error)}") from error


def _check_frames(dataset: Dataset, plane: Plane) -> None:
    """Refuse compressed pixels whose own header promises another size than the image's: a decoder would believe them."""
    from pydicom.encaps import generate_frames

    if not dataset.file_meta.TransferSyntaxUID.is_encapsulated or "PixelData" not in dataset:
        return
    for frame in generate_frames(dataset.PixelData, number_of_frames=plane.frames):
        stated = picture_size(frame[:_CODE_HEAD])
        if stated not in (None, (plane.rows, plane.columns)):
            raise ImageError(
                f"Found {plane.file.name} with compressed pixels of {stated[0]} x {stated[1]}; {plane.rows} x {plane.columns} is stated in "
                "its header. Export it again."
            )


def _refuse_bomb(content: bytes, plane: Plane) -> None:
    """A deflated file is unpacked in memory, so what it unpacks to must be of the size that its image needs."""
    needed = plane.rows * plane.columns * plane.samples * plane.bits // 8 * plane.frames
    limit = needed + _BESIDE_PIXELS
    unpacking, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
    packed = content[content.find(b"DICM") + 4 :]
    length = int.from_bytes(packed[8:12], "little")  # of the group 0002, which is not deflated
    packed = packed[12 + length :]
    while packed and not unpacking.eof and size <= limit:
        size += len(unpacking.decompress(packed, 2**24))
        packed = unpacking.unconsumed_tail
    if size > limit:
        raise SourceError(
            f"Found {plane.file.name}, a deflated file that unpacks to more than {limit // 2**20} MiB; its image needs "
            f"{needed / 2**20:.1f}. Do not trust this file: ask for another."
        )


def decoded(dataset: Dataset, plane: Plane) -> NDArray[Any]:
    """Stored values of one plane, (row, column) or, in colour, (row, column, RGB)."""
    from pydicom.pixels import pixel_array

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what pydicom finds odd about lengths is either harmless or fails below
            if plane.syntax in ITK_ONLY:
                stored = _by_itk(dataset, plane.frame or 0)
            elif _shifted(dataset, plane) and plane.samples == 1:
                whole = pixel_array(_as_cells(dataset, plane), index=plane.frame or 0)
                stored = _shift(whole, plane, signed=bool(dataset.get("PixelRepresentation", 0)))
            else:
                stored = pixel_array(dataset, index=plane.frame or 0)
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:
        raise SourceError(f"Found {plane.file.name}, whose pixels cannot be read: {_reason(error)}") from error
    if stored.shape[:2] != (plane.rows, plane.columns):
        raise ImageError(
            f"Found {plane.file.name} with pixels of shape {stored.shape}; {(plane.rows, plane.columns)} is stated in its "
            "header. Export it again."
        )
    return np.asarray(stored)


def _shifted(dataset: Dataset, plane: Plane) -> bool:
    """Tell whether a pixel lies above the lowest bits of its cell (PS3.5 8.1.1).

    Uncompressed and run-length coded files hold whole cells; of other compressed ones those do whose stream has more bits
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


def _as_cells(dataset: Dataset, plane: Plane) -> Dataset:
    """Describe the pixels as wide as their cells, so that no decoder cuts them off."""
    made = Dataset()
    for keyword in (*_PIXEL_MODULE, "NumberOfFrames", "PixelData"):
        if keyword in dataset and keyword not in ("BitsStored", "HighBit"):
            made[keyword] = dataset[keyword]  # the same element: not to be changed
    made.file_meta = dataset.file_meta
    made.BitsStored, made.HighBit = plane.bits, plane.bits - 1
    return made


def _shift(cells: NDArray[Any], plane: Plane, signed: bool) -> NDArray[Any]:
    """Take each pixel out of its cell, as DCMTK does: shifted down, other bits cleared, the sign carried on."""
    bits, high = plane.packing
    plain = (cells.astype(np.int64) >> (high + 1 - bits)) & (2**bits - 1)
    if signed:
        plain -= (plain >> (bits - 1)) << bits
    pixels: NDArray[Any] = plain.astype(cells.dtype)
    return pixels


def _by_itk(dataset: Dataset, frame: int) -> NDArray[Any]:
    """12-bit lossy JPEG through ITK's GDCM, from a file that holds the pixels and nothing about the patient."""
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
    """The C library behind tries 8 bits first and writes its complaint straight to the terminal."""
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _reason(error: Exception) -> str:
    text = (str(error).strip().splitlines() or [""])[0][:200]
    cut = ("less than expected", "less data", "length", "end of file", "EOF")
    if isinstance(error, (EOFError, zlib.error)) or any(word in text for word in cut):
        return "the file is cut off. Every slice must be complete: export or copy the series again."
    if isinstance(error, RecursionError):
        return "its sequences are nested too deep. Export the series again, or remove its private elements."
    if isinstance(error, AttributeError) and "required element" in text:
        return f"{text[0].lower()}{text[1:]}. Every slice must say how its pixels are packed: export the series again."
    if isinstance(error, AttributeError):
        return "it holds no pixel data. Every slice must be complete: export or copy the series again."
    return (
        f"{text.rstrip('.')}. Its pixel data are damaged or packed in an unusual way: export the series uncompressed."
    )


def real_values(stored: NDArray[Any], dataset: Dataset, plane: Plane) -> Values:
    """Grey values in the image's own units, by the slope and intercept of this very plane.

    Values of CT and PET are quantities and stay as they are under MONOCHROME1; of anything else, that kind is turned
    round so that brighter always means more.
    """
    if stored.ndim == 3:
        return Values(stored.astype(np.float32))
    if plane.photometric == "PALETTE COLOR":
        from pydicom.pixels import apply_color_lut

        return Values(_eight_bits(apply_color_lut(stored, dataset)))
    bad = stored.size - int(np.isfinite(stored).sum()) if stored.dtype.kind == "f" else 0
    if bad:
        raise ImageError(
            f"Found {plane.file.name} with {bad} NaN or infinite values among its {stored.size} pixels; all must be finite. "
            "Replace them in the source."
        )
    padding = _padding(stored, dataset)
    inverted = plane.photometric == "MONOCHROME1" and plane.modality not in ("CT", "PT")
    if inverted:
        bits = int(dataset.get("BitsStored", plane.bits) or plane.bits)
        top = -1 if int(dataset.get("PixelRepresentation", 0) or 0) else 2**bits - 1
        stored = top - stored.astype(np.int64)
    slope, intercept, philips = _scaling(dataset, plane)
    if dataset.get("ModalityLUTSequence"):
        from pydicom.pixels import apply_modality_lut

        real = np.asarray(apply_modality_lut(stored, dataset), dtype=np.float64)
    else:
        real = stored.astype(np.float64) * slope + intercept
    array = real.astype(np.float32)
    if padding is not None:
        array[padding] = np.nan
    return Values(array, inverted, philips)


def _eight_bits(colours: NDArray[Any]) -> NDArray[np.float32]:
    """(row, column, RGB) as 0 to 255, whatever the width of the palette."""
    return np.asarray(colours >> 8 if colours.dtype == np.uint16 else colours, dtype=np.float32)


def _scaling(dataset: Dataset, plane: Plane) -> tuple[float, float, bool]:
    """Slope, intercept, and whether they are Philips' own.

    Philips stores floating-point signal as (stored x slope + intercept) / (slope x scale slope), where slope and
    intercept are DICOM's and the scale slope is private (Chenevert et al., Transl. Oncol. 7(1), 2014); without it,
    signal of different slices or scans cannot be compared.
    """
    slope, intercept = plane.rescale
    slope = slope or 1.0
    found = frame_scaling(dataset, plane.frame, _PHILIPS_SLOPE)
    if plane.modality == "MR" and found is not None and np.isfinite(found) and found > 0:
        return 1.0 / found, intercept / (slope * found), True
    return slope, intercept, False


def _padding(stored: NDArray[Any], dataset: Dataset) -> NDArray[np.bool_] | None:
    """Where a stored value is padding: PixelPaddingValue, or anything between it and PixelPaddingRangeLimit."""
    value = dataset.get("PixelPaddingValue")
    if value is None or not isinstance(value, int):
        return None
    limit = dataset.get("PixelPaddingRangeLimit")
    ends = [_as_stored(v, stored.dtype) for v in (value, limit) if isinstance(v, int)]
    low, high = min(ends), max(ends)
    mask = (stored >= low) & (stored <= high)
    return mask if mask.any() else None


def _as_stored(value: int, dtype: np.dtype[Any]) -> int:
    """The value as the pixels' own type holds it; writers mix signed and unsigned VRs of this tag."""
    bits = 8 * dtype.itemsize
    value %= 2**bits
    return value - 2**bits if dtype.kind == "i" and value >= 2 ** (bits - 1) else value


def same_pixels(planes: Sequence[Plane]) -> bool:
    """Whether planes are copies: equal files, or equal stored pixels under headers that differ."""
    contents = [plane.file.read() for plane in planes]
    if len(set(contents)) == 1:
        return True
    try:
        arrays = [decoded(_open(plane), plane) for plane in planes]
    except SourceError:
        return False
    return all(np.array_equal(arrays[0], other) for other in arrays[1:])
