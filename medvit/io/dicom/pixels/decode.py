"""Conversion of stored pixels to real values: rescaling, inverted display, padding (PS3.3 C.7.6.3, C.7.6.16, C.11.1)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from medvit.errors import ImageError, MedvitError, SourceError
from medvit.io.dicom.header import PlaneHeader, frame_scaling
from medvit.io.dicom.pixels.stored_pixels import decode_plane, open_plane
from medvit.io.memory_limits import check_image_memory

__all__ = ["AIR_HU", "Values", "check_header_values", "plane_values", "real_values", "same_pixels"]

AIR_HU = -1024.0
"""Value of CT outside the field of view, in Hounsfield units."""

_PHILIPS_SLOPE = 0x2005100E
"""Tag of Philips' private MR Scale Slope, of the creator "Philips MR Imaging DD 001" in block 10."""


@dataclass(frozen=True, eq=False)
class Values:
    """Real values of one plane.

    Attributes:
        array: (row, column) float32, NaN for padding; in colour (row, column, RGB).
        inverted: True where MONOCHROME1 was inverted.
        philips: True where Philips' private scaling was applied.
    """

    array: NDArray[np.float32]
    inverted: bool = False
    philips: bool = False


@contextmanager
def check_header_values() -> Iterator[None]:
    """Convert exceptions raised by header values of the wrong type to ``SourceError``."""
    try:
        yield
    except (MedvitError, MemoryError):
        raise
    except Exception as error:
        raise SourceError(
            f"a slice with a damaged header value ({type(error).__name__}: {str(error)[:80]})",
            "position, orientation and spacing must be numbers",
            "Export the series again.",
        ) from error


def plane_values(planes: Sequence[PlaneHeader]) -> Iterator[tuple[Dataset, Values]]:
    """Yield the full header (without pixels) and the real values of each plane, in order.

    A multi-frame file is opened once for consecutive frames.

    Raises:
        SourceError: the file is cut off, damaged or not decodable.
        ImageError: the shape of the pixels differs from the header.
        TooLargeError: the planes would exceed the memory limit.
    """
    name, dataset = "", Dataset()
    if planes:
        first = planes[0]
        check_image_memory((first.rows, first.columns, len(planes)), "a DICOM image", values=max(1, first.samples))
    for plane in planes:
        if plane.frame is None or plane.file.name != name:
            name, dataset = plane.file.name, open_plane(plane)
        stored = decode_plane(dataset, plane)
        with check_header_values():
            yield dataset, real_values(stored, dataset, plane)


def real_values(stored: NDArray[Any], dataset: Dataset, plane: PlaneHeader) -> Values:
    """Convert stored values to real values, with the slope and intercept of this plane.

    CT and PET values are quantities and keep their sign under MONOCHROME1; in other modalities MONOCHROME1 is inverted,
    so that brighter always means more.
    """
    if stored.ndim == 3:
        return Values(stored.astype(np.float32))
    if plane.photometric == "PALETTE COLOR":
        from pydicom.pixels import apply_color_lut

        return Values(_eight_bits(apply_color_lut(stored, dataset)))
    bad = stored.size - int(np.isfinite(stored).sum()) if stored.dtype.kind == "f" else 0
    if bad:
        raise ImageError(
            f"{plane.file.name} with {bad} NaN or infinite values among its {stored.size} pixels",
            "all must be finite",
            "Replace them in the source.",
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
    """Scale the colours of a palette, (row, column, RGB), to 0 to 255."""
    return np.asarray(colours >> 8 if colours.dtype == np.uint16 else colours, dtype=np.float32)


def _scaling(dataset: Dataset, plane: PlaneHeader) -> tuple[float, float, bool]:
    """Return slope, intercept, and True where they are Philips' private ones.

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
    """Return a mask of the padding: PixelPaddingValue, or the range from it to PixelPaddingRangeLimit; None without
    padding.
    """
    value = dataset.get("PixelPaddingValue")
    if value is None or not isinstance(value, int):
        return None
    limit = dataset.get("PixelPaddingRangeLimit")
    ends = [_as_stored(v, stored.dtype) for v in (value, limit) if isinstance(v, int)]
    low, high = min(ends), max(ends)
    mask = (stored >= low) & (stored <= high)
    return mask if mask.any() else None


def _as_stored(value: int, dtype: np.dtype[Any]) -> int:
    """Convert a padding value to the range of the pixels' dtype; writers mix signed and unsigned VRs of this tag."""
    bits = 8 * dtype.itemsize
    value %= 2**bits
    return value - 2**bits if dtype.kind == "i" and value >= 2 ** (bits - 1) else value


def same_pixels(planes: Sequence[PlaneHeader]) -> bool:
    """Return True if planes are copies: equal files, or equal stored pixels under different headers."""
    contents = [plane.file.read() for plane in planes]
    if len(set(contents)) == 1:
        return True
    try:
        arrays = [decode_plane(open_plane(plane), plane) for plane in planes]
    except SourceError:
        return False
    return all(np.array_equal(arrays[0], other) for other in arrays[1:])
