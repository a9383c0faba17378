"""Writing restored intensities as NIfTI: on the source's grid, in its unit and, where the values fit, in its type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvit.io.scan import Scan

__all__ = ["write_intensities"]


def write_intensities(path: Path, array: NDArray[np.float32], scan: Scan, words: str, given: Scan | None = None) -> str:
    """Write (i, j, k) intensities; return the type they are stored in.

    Whole numbers are stored as whole numbers: a NIfTI source's own type, slope and intercept, 16 bits for other sources
    whose values are whole. Where they do not fit, a wider type is taken.

    Args:
        path: the file to write.
        array: in the source's unit.
        scan: the source; its place is written as ``write_labels`` does, its texts are not, since they can name people.
        words: for the header's description, at most 79 bytes.
        given: the source as it was given, where ``scan`` is interpolated from it: its values say whether they are whole.
    """
    import nibabel as nib

    own = scan.header if isinstance(scan.header, nib.Nifti1Header) else None
    slope, inter = _scale(own)
    wanted = own.get_data_dtype() if own is not None else _plain_type(given or scan)
    stored, dtype = _stored(array, np.dtype(wanted), slope, inter)
    if own is not None:
        header = own.copy()
        header.extensions.clear()
        for name in ("aux_file", "db_name", "intent_name", "data_type"):
            if name in header:
                header[name] = b""
        header["cal_min"] = header["cal_max"] = 0
        header.set_data_shape(array.shape)
        header.set_data_dtype(dtype)
        kind = nib.Nifti1Image if header.sizeof_hdr == 348 else nib.Nifti2Image
        image = kind(stored, None, header)
    else:
        image = nib.Nifti1Image(stored, scan.affine, dtype=dtype)
        image.set_sform(scan.affine, 1)
        image.set_qform(scan.affine, 1)
        image.header.set_xyzt_units("mm")
    image.header["descrip"] = words.encode()[:79]
    if np.issubdtype(dtype, np.integer):
        image.header.set_slope_inter(slope, inter)
    else:
        image.header.set_slope_inter(1, 0)
    nib.save(image, path)
    return str(dtype)


def _scale(header: object) -> tuple[float, float]:
    slope, inter = header.get_slope_inter() if header is not None else (None, None)  # type: ignore[attr-defined]
    return float(slope or 1.0), float(inter or 0.0)


def _plain_type(scan: Scan) -> np.dtype[np.generic]:
    values = scan.array[0] if scan.original is None else scan.original.values
    return np.dtype(np.int16) if bool((values == np.rint(values)).all()) else np.dtype(np.float32)


def _stored(
    array: NDArray[np.float32], dtype: np.dtype[np.generic], slope: float, inter: float
) -> tuple[NDArray[np.generic], np.dtype[np.generic]]:
    if not np.issubdtype(dtype, np.integer):
        wide = np.dtype(np.float64) if dtype == np.float64 else np.dtype(np.float32)
        return array.astype(wide), wide
    whole = np.rint((array.astype(np.float64) - inter) / slope)
    low, high = whole.min(), whole.max()
    kinds: list[Any] = [dtype, np.dtype(np.int16), np.dtype(np.int32)]
    for kind in kinds:
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return whole.astype(kind), np.dtype(kind)
    return array.astype(np.float32), np.dtype(np.float32)
