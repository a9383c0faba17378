"""Denoising by block matching and 3-D filtering (BM3D), implemented from its paper only.

medvit keeps its own implementation because the authors' package, bm3d, is licensed for non-commercial use only.

K. Dabov, A. Foi, V. Katkovnik, K. Egiazarian, "Image denoising by sparse 3-D transform-domain collaborative filtering",
IEEE Transactions on Image Processing 16(8), 2007. Equations and sizes below are that paper's; differences:

- Both steps use the cosine transform of 8 x 8 blocks (the paper's first step: a biorthogonal wavelet, for weak noise).
- Blocks are always matched on thresholded transforms (Eq. 4), which the paper does only for strong noise, and the
  largest distance of blocks is in units of the noise's variance, so that an image in any unit is treated like its 8-bit
  copy.
- The mean of a stack is neither thresholded nor shrunk: in an image in HU zero has no special meaning, and shrinking
  towards it would be a bias.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.fft import dctn

__all__ = ["bm3d", "hard_threshold_step", "wiener_step"]

_SIDE = 8
"""Number of rows and columns of a block."""
_REACH = 19
"""Largest distance in pixels at which blocks are searched: a window of 39."""
_STRIDE = 3
"""Step between the rows and columns for which a stack is made."""
_THIN = 2.7
"""Threshold for coefficients of a stack in the first step, in units of sigma (lambda 3D)."""
_MATCH_THIN = 2.0
"""Threshold for coefficients of a block before two blocks are compared, in units of sigma (lambda 2D)."""
_FIRST, _SECOND = (16, 2.5), (32, 1.0)
"""Largest number of blocks in a stack, and largest distance of blocks per pixel in units of sigma squared, for each
step.

The paper's 2500 at sigma 25 is 4 sigma squared, of which 2 are the distance that noise alone causes. Without
coefficients below 2 sigma this part is 0.5, hence 2.5 here, which is also between the paper's values for strong noise.
Its second step has 400 at sigma 25 and 3500 at strong noise: 0.6 to 1.4."""


def bm3d(image: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """Denoise an image.

    Args:
        image: (i, j), any unit and size.
        sigma: standard deviation of its white Gaussian noise, in the same unit; with 0 the image is unchanged.
    """
    if not sigma > 0:
        return image.astype(np.float32)
    centre = float(image.mean())  # subtracted, so that float32 sums are accurate
    size = [max(n, _SIDE) for n in image.shape]
    padding = [(0, n - m) for n, m in zip(size, image.shape, strict=True)]
    noisy = np.pad(image.astype(np.float32) - np.float32(centre), padding, mode="edge")
    clean = wiener_step(noisy, hard_threshold_step(noisy, sigma), sigma)
    return (clean + np.float32(centre))[: image.shape[0], : image.shape[1]]


def hard_threshold_step(noisy: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """Compute the basic estimate (section III-A) from stacks of noisy blocks without their small coefficients.

    Args:
        noisy: (i, j), at least 8 x 8.
        sigma: as for ``bm3d``.
    """
    spectra = _spectra(noisy)
    told = np.where(np.abs(spectra) > _MATCH_THIN * sigma, spectra, np.float32(0))
    told[..., 0] = spectra[..., 0]
    return _filtered(spectra, spectra, told, sigma, _FIRST, False, noisy.shape)


def wiener_step(noisy: NDArray[np.float32], basic: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """Compute the final estimate (section III-B) from stacks matched on the basic estimate and shrunk by its energy.

    Args:
        noisy: (i, j), at least 8 x 8.
        basic: its basic estimate, the same shape.
        sigma: as for ``bm3d``.
    """
    pilot = _spectra(basic)
    return _filtered(_spectra(noisy), pilot, pilot, sigma, _SECOND, True, noisy.shape)


def _spectra(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Compute the orthonormal cosine transform of the block that starts at each pixel, (i - 7, j - 7, 64)."""
    blocks = np.lib.stride_tricks.sliding_window_view(image, (_SIDE, _SIDE))
    basis = _basis()
    return np.ascontiguousarray((basis @ blocks @ basis.T).reshape(*blocks.shape[:2], -1))


def _basis() -> NDArray[np.float32]:
    """Return the matrix of the cosine transform; row n is the n-th cosine."""
    columns = [dctn(row, norm="ortho") for row in np.eye(_SIDE)]
    return np.stack(columns, 1).astype(np.float32)


def _filtered(
    spectra: NDArray[np.float32],
    pilot: NDArray[np.float32],
    told: NDArray[np.float32],
    sigma: float,
    stack: tuple[int, float],
    wiener: bool,
    shape: tuple[int, ...],
) -> NDArray[np.float32]:
    """Aggregate the filtered stacks; stacks with more remaining noise have less weight (Eqs. 10 to 12)."""
    rows, columns = (_starts(n) for n in spectra.shape[:2])
    kaiser = np.kaiser(_SIDE, 2.0).astype(np.float32)
    window = np.outer(kaiser, kaiser)
    most, apart = stack
    total, weight = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    limit = np.float32(apart * sigma**2 * _SIDE**2)
    _collect(
        spectra, pilot, told, rows, columns, np.float32(sigma), most, limit, wiener, _basis(), window, total, weight
    )
    return total / weight


def _starts(count: int) -> NDArray[np.int64]:
    """Return every third block and the last one, so that every pixel is in a stack."""
    return np.union1d(np.arange(0, count, _STRIDE), [count - 1])


def _jit(function: Callable[..., Any]) -> Any:
    """Compile with numba; machine code is cached on disk if possible, else compiled once per process."""
    try:
        return njit(cache=True, nogil=True, fastmath=True)(function)
    except RuntimeError:
        return njit(nogil=True, fastmath=True)(function)


@_jit
def _matches(told: Any, row: int, column: int, limit: float, distances: Any, places: Any) -> int:
    """Find the most similar blocks (Eq. 5), nearest first, starting with the block itself; return their number, a power
    of two."""
    height, width, size = told.shape
    own = told[row, column]
    most, found = len(distances), 0
    for i in range(max(0, row - _REACH), min(height, row + _REACH + 1)):
        for j in range(max(0, column - _REACH), min(width, column + _REACH + 1)):
            other = told[i, j]
            apart = np.float32(0)
            for n in range(size):
                apart += (own[n] - other[n]) ** 2
            if i == row and j == column:
                apart = np.float32(-1)
            if apart > limit or (found == most and apart >= distances[most - 1]):
                continue
            at = min(found, most - 1)
            while at > 0 and distances[at - 1] > apart:
                distances[at], places[at, 0], places[at, 1] = distances[at - 1], places[at - 1, 0], places[at - 1, 1]
                at -= 1
            distances[at], places[at, 0], places[at, 1] = apart, i, j
            found = min(found + 1, most)
    power = 1
    while 2 * power <= found:
        power *= 2
    return power


@_jit
def _haar(stack: Any, count: int, spare: Any) -> None:
    """Apply the orthonormal Haar transform along the stack, in place: sums first, then finer and finer differences."""
    scale = np.float32(0.7071067811865476)
    while count > 1:
        half = count // 2
        for n in range(half):
            for c in range(stack.shape[1]):
                spare[n, c] = (stack[2 * n, c] + stack[2 * n + 1, c]) * scale
                spare[half + n, c] = (stack[2 * n, c] - stack[2 * n + 1, c]) * scale
        stack[:count] = spare[:count]
        count = half


@_jit
def _haar_back(stack: Any, count: int, spare: Any) -> None:
    """Apply the inverse of ``_haar``."""
    scale = np.float32(0.7071067811865476)
    half = 1
    while half < count:
        for n in range(half):
            for c in range(stack.shape[1]):
                spare[2 * n, c] = (stack[n, c] + stack[half + n, c]) * scale
                spare[2 * n + 1, c] = (stack[n, c] - stack[half + n, c]) * scale
        half *= 2
        stack[:half] = spare[:half]


@_jit
def _thin(stack: Any, pilot: Any, count: int, sigma: float, wiener: bool) -> Any:
    """Remove small coefficients, or shrink each by the pilot's energy (Eq. 8), in place; return the stack's weight."""
    kept, threshold = np.float32(0), _THIN * sigma
    for n in range(count):
        for c in range(stack.shape[1]):
            if n == 0 and c == 0:
                share = np.float32(1)
            elif wiener:
                share = pilot[n, c] ** 2 / (pilot[n, c] ** 2 + sigma**2)
            else:
                share = np.float32(abs(stack[n, c]) > threshold)
            stack[n, c] *= share
            kept += share**2
    return 1 / kept


@_jit
def _lay_down(block: Any, basis: Any, window: Any, weight: float, total: Any, below: Any) -> None:
    """Transform a block back and add its weighted pixels to the sums at its position (Eq. 12)."""
    side = basis.shape[0]
    half = np.zeros((side, side), np.float32)
    for k in range(side):
        for r in range(side):
            for c in range(side):
                half[r, c] += basis[k, r] * block[k * side + c]
    for r in range(side):
        for c in range(side):
            pixel = np.float32(0)
            for k in range(side):
                pixel += half[r, k] * basis[k, c]
            total[r, c] += weight * window[r, c] * pixel
            below[r, c] += weight * window[r, c]


@_jit
def _collect(
    spectra: Any, pilot: Any, told: Any, rows: Any, columns: Any, sigma: float, most: int, limit: float, wiener: bool,
    basis: Any, window: Any, total: Any, below: Any,
) -> None:  # fmt: skip
    """Match, stack, filter and aggregate, one block after another."""
    size, side = spectra.shape[2], basis.shape[0]
    distances, places = np.empty(most, np.float32), np.empty((most, 2), np.int64)
    stack = np.empty((most, size), np.float32)
    guide, spare = np.empty_like(stack), np.empty_like(stack)
    for row in rows:
        for column in columns:
            count = _matches(told, row, column, limit, distances, places)
            for n in range(count):
                stack[n] = spectra[places[n, 0], places[n, 1]]
                guide[n] = pilot[places[n, 0], places[n, 1]]
            _haar(stack, count, spare)
            if wiener:
                _haar(guide, count, spare)
            weight = _thin(stack, guide, count, sigma, wiener)
            _haar_back(stack, count, spare)
            for n in range(count):
                i, j = places[n, 0], places[n, 1]
                _lay_down(
                    stack[n],
                    basis,
                    window,
                    weight,
                    total[i : i + side, j : j + side],
                    below[i : i + side, j : j + side],
                )
