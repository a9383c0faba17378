"""Stored pixels to real values: rescaling, inverted display and padding (PS3.3 C.7.6.3, C.7.6.16, C.11.1)."""

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
"""What CT shows outside its field of view."""

_PHILIPS_SLOPE = 0x2005100E
"""Philips' private MR Scale Slope, behind the creator "Philips MR Imaging DD 001" in block 10."""


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
def check_header_values() -> Iterator[None]:
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


def plane_values(planes: Sequence[PlaneHeader]) -> Iterator[tuple[Dataset, Values]]:
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
            name, dataset = plane.file.name, open_plane(plane)
        stored = decode_plane(dataset, plane)
        with check_header_values():
            yield dataset, real_values(stored, dataset, plane)


def real_values(stored: NDArray[Any], dataset: Dataset, plane: PlaneHeader) -> Values:
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


def _scaling(dataset: Dataset, plane: PlaneHeader) -> tuple[float, float, bool]:
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


def same_pixels(planes: Sequence[PlaneHeader]) -> bool:
    """Whether planes are copies: equal files, or equal stored pixels under headers that differ."""
    contents = [plane.file.read() for plane in planes]
    if len(set(contents)) == 1:
        return True
    try:
        arrays = [decode_plane(open_plane(plane), plane) for plane in planes]
    except SourceError:
        return False
    return all(np.array_equal(arrays[0], other) for other in arrays[1:])
