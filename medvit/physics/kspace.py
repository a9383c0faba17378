"""A scan on a grid a whole number of times coarser or finer in its slices' plane, by cutting k-space or filling it with zeros.

What both grids share is the extent: their voxels tile the same box, so that a finer pixel's centre lies at
(n + 1/2) / factor - 1/2 coarse pixels. A plain Fourier transform with zeros appended would instead keep the first pixel's
centre and move the box by half a finer pixel; the shift between the two is a linear phase, and exact.

Arrays are (i, j) or (i, j, k); i and j are the slice's plane, slices lie across k. Light: no torch.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from medvit.errors import ShapeError

__all__ = ["low_frequency_part", "truncate_kspace", "upsampled_index", "zero_fill"]


def truncate_kspace(image: NDArray[np.floating], factor: int) -> NDArray[np.float32]:
    """The scan with voxels ``factor`` times as wide along i and j: k-space kept below the coarser grid's Nyquist frequency.

    Frequencies k with \\|k\\| < M / 2 of the M = N / factor samples of an axis are kept, unweighted, the rest is cut off
    (the single line at -M/2 of an even M too, which has no partner at +M/2). The image is taken for periodic and free of
    phase, and its mean stays what it was.

    Args:
        image: (i, j) or (i, j, k); i and j divide by ``factor``.
        factor: 1 or more.

    Returns:
        (i / factor, j / factor[, k]) float32, in the image's unit.

    Raises:
        ShapeError: a factor below 1, sides that do not divide by it, or another number of axes.
    """
    _check(image, factor)
    if any(n % factor for n in image.shape[:2]):
        raise ShapeError(
            f"slices of {image.shape[0]} x {image.shape[1]} pixels to make {factor} times coarser",
            "their sides must divide by it",
            "Cut off what is left over.",
        )
    return _in_plane(image, lambda line: _coarser_lines(line, factor))


def zero_fill(image: NDArray[np.floating], factor: int) -> NDArray[np.float32]:
    """The scan on a grid ``factor`` times as fine along i and j, by zeros around its k-space: sinc interpolation.

    All frequencies stay as they are. The line at Nyquist of an even number of samples is shared between both ends, which
    is the smoothest image that has the given samples.

    Args:
        image: (i, j) or (i, j, k).
        factor: 1 or more.

    Returns:
        (factor * i, factor * j[, k]) float32, in the image's unit; it rings beside edges, as truncated k-space does.

    Raises:
        ShapeError: a factor below 1, or another number of axes.
    """
    _check(image, factor)
    return _in_plane(image, lambda line: _finer_lines(line, factor))


def low_frequency_part(fine: NDArray[np.floating], factor: int) -> NDArray[np.float32]:
    """What of a finer image a scan ``factor`` times as coarse would have measured, on the finer grid; errors as ``truncate_kspace``."""
    return zero_fill(truncate_kspace(fine, factor), factor)


def upsampled_index(factor: int) -> NDArray[np.float64]:
    """Voxel index (i, j, k, 1) on the finer grid to index on the grid it was made of, 4x4: ``affine @ upsampled_index(f)``."""
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
    """An operation on the last axis applied along i and along j, slice by slice: memory stays that of one slice."""
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
        return line  # the line at Nyquist has its partner
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
