"""Resampling in the slice plane by a whole factor, by truncation or zero filling of k-space.

Both grids have the same extent: a fine pixel's centre is at (n + 1/2) / factor - 1/2 coarse pixels. A plain Fourier
transform with zeros appended would keep the first pixel's centre and move the extent by half a fine pixel; the shift
between the two is a linear phase and exact.

Arrays are (i, j) or (i, j, k); i and j are the slice plane, slices are along k. This module does not import torch.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from medvit.errors import ShapeError

__all__ = ["low_frequency_part", "truncate_kspace", "upsampled_index", "zero_fill"]


def truncate_kspace(image: NDArray[np.floating], factor: int) -> NDArray[np.float32]:
    """Compute the scan with voxels ``factor`` times as wide along i and j, from k-space below the coarse grid's Nyquist
    frequency.

    Frequencies k with \\|k\\| < M / 2 of the M = N / factor samples of an axis are kept unweighted; the others are
    removed, also the line at -M/2 of an even M, which has no counterpart at +M/2. The image is assumed to be periodic
    and without phase; its mean is unchanged.

    Args:
        image: (i, j) or (i, j, k); i and j are multiples of ``factor``.
        factor: 1 or more.

    Returns:
        (i / factor, j / factor[, k]) float32, in the image's unit.

    Raises:
        ShapeError: the factor is below 1, the sides are not multiples of it, or the number of axes is wrong.
    """
    _check(image, factor)
    if any(n % factor for n in image.shape[:2]):
        raise ShapeError(
            f"slices of {image.shape[0]} x {image.shape[1]} pixels to make {factor} times coarser",
            "both sides must be multiples of the factor",
            "Crop the image.",
        )
    return _in_plane(image, lambda line: _coarser_lines(line, factor))


def zero_fill(image: NDArray[np.floating], factor: int) -> NDArray[np.float32]:
    """Interpolate the scan to a grid ``factor`` times as fine along i and j by zero filling of k-space (sinc
    interpolation).

    All frequencies are unchanged. The Nyquist line of an even number of samples is shared between both ends, which
    gives the smoothest image with the given samples.

    Args:
        image: (i, j) or (i, j, k).
        factor: 1 or more.

    Returns:
        (factor * i, factor * j[, k]) float32, in the image's unit; it rings at edges, like any truncated k-space.

    Raises:
        ShapeError: the factor is below 1, or the number of axes is wrong.
    """
    _check(image, factor)
    return _in_plane(image, lambda line: _finer_lines(line, factor))


def low_frequency_part(fine: NDArray[np.floating], factor: int) -> NDArray[np.float32]:
    """Return the part of a fine image that a scan ``factor`` times as coarse measures, on the fine grid; errors as
    ``truncate_kspace``."""
    return zero_fill(truncate_kspace(fine, factor), factor)


def upsampled_index(factor: int) -> NDArray[np.float64]:
    """Return the 4x4 map from voxel index on the fine grid to index on the coarse grid, for ``affine @
    upsampled_index(factor)``."""
    index = np.diag([1 / factor, 1 / factor, 1.0, 1.0])
    index[:2, 3] = (1 / factor - 1) / 2
    return index


def _check(image: NDArray[np.floating], factor: int) -> None:
    if image.ndim not in (2, 3) or 0 in image.shape or factor < 1:
        raise ShapeError(
            f"an image of shape {image.shape} and a factor of {factor}",
            "(i, j) or (i, j, k) with at least one voxel and a factor of at least 1 are needed",
            "Take off channel and batch axes first.",
        )


def _in_plane(
    image: NDArray[np.floating], lines: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> NDArray[np.float32]:
    """Apply an operation on the last axis along i and along j, slice by slice, with the memory of one slice."""
    stack = image[..., None] if image.ndim == 2 else image
    out: NDArray[np.float32] | None = None
    for k in range(stack.shape[2]):
        plane = lines(lines(stack[:, :, k].astype(np.float64)).T).T
        if out is None:
            out = np.empty((*plane.shape, stack.shape[2]), np.float32)
        out[:, :, k] = plane
    assert out is not None
    return out[..., 0] if image.ndim == 2 else out


def _coarser_lines(line: NDArray[np.float64], factor: int) -> NDArray[np.float64]:
    if factor == 1:
        return line  # nothing is removed, not even the Nyquist line
    fine = line.shape[-1]
    coarse = fine // factor
    k = np.arange((coarse + 1) // 2)  # below Nyquist
    moved = np.exp(2j * np.pi * k * (factor - 1) / 2 / fine)
    kept = np.fft.rfft(line)[..., : len(k)] * moved
    return np.fft.irfft(kept, n=coarse) / factor


def _finer_lines(line: NDArray[np.float64], factor: int) -> NDArray[np.float64]:
    coarse = line.shape[-1]
    if factor == 1:
        return line
    spectrum = np.fft.rfft(line)
    k = np.arange(spectrum.shape[-1])
    spectrum = spectrum * np.exp(2j * np.pi * k * (1 / factor - 1) / 2 / coarse)
    if coarse % 2 == 0:
        spectrum[..., -1] /= 2
    return np.fft.irfft(spectrum, n=coarse * factor) * factor
