"""Denoising by blocks that look alike, stacked and thinned together (BM3D), written from its paper alone.

K. Dabov, A. Foi, V. Katkovnik, K. Egiazarian, "Image denoising by sparse 3-D transform-domain collaborative filtering",
IEEE Transactions on Image Processing 16(8), 2007. Equations and sizes below are that paper's; what differs:

- Both steps take the cosine transform of 8 x 8 blocks (the paper's first step: a biorthogonal wavelet, for weak noise).
- Blocks are always matched on thresholded transforms (Eq. 4), which the paper does for strong noise only, and how far apart
  two may be is said in the noise's variance, so that an image in any unit is treated as its 8-bit copy would be.
- The mean of a stack is neither thresholded nor shrunk: zero means nothing in an image of HU, and pulling towards it would
  be a bias.
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
"""Rows and columns of a block."""
_REACH = 19
"""Blocks are looked for up to so many pixels away: a window of 39."""
_STRIDE = 3
"""A stack is made for every third row and column."""
_THIN = 2.7
"""Coefficients of a stack below so many sigma are left out in the first step (lambda 3D)."""
_MATCH_THIN = 2.0
"""Coefficients of a block below so many sigma say nothing when two are compared (lambda 2D)."""
_FIRST, _SECOND = (16, 2.5), (32, 1.0)
"""In each step: blocks in a stack at most, and how far apart they may be, per pixel, in sigma squared.

The paper's 2500 at sigma 25 is 4 sigma squared, of which two noisy blocks are 2 apart by their noise alone; of that 0.5 is
left where coefficients below 2 sigma are left out, hence 2.5, which also is between its values for strong noise. Its second
step has 400 at sigma 25 and 3500 at strong noise: 0.6 to 1.4."""


def bm3d(image: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """An image without its noise.

    Args:
        image: (i, j), any unit and size.
        sigma: standard deviation of its white Gaussian noise, in the same unit; 0 gives the image back.
    """
    if not sigma > 0:
        return image.astype(np.float32)
    centre = float(image.mean())  # sums in float32 are of what differs
    size = [max(n, _SIDE) for n in image.shape]
    padding = [(0, n - m) for n, m in zip(size, image.shape, strict=True)]
    noisy = np.pad(image.astype(np.float32) - np.float32(centre), padding, mode="edge")
    clean = wiener_step(noisy, hard_threshold_step(noisy, sigma), sigma)
    return (clean + np.float32(centre))[: image.shape[0], : image.shape[1]]


def hard_threshold_step(noisy: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """The basic estimate (section III-A): stacks of noisy blocks, their small coefficients left out.

    Args:
        noisy: (i, j), at least 8 x 8.
        sigma: as in ``bm3d``.
    """
    spectra = _spectra(noisy)
    told = np.where(np.abs(spectra) > _MATCH_THIN * sigma, spectra, np.float32(0))
    told[..., 0] = spectra[..., 0]
    return _filtered(spectra, spectra, told, sigma, _FIRST, False, noisy.shape)


def wiener_step(noisy: NDArray[np.float32], basic: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """The final estimate (section III-B): stacks matched on the basic one, shrunk as its energy says.

    Args:
        noisy: (i, j), at least 8 x 8.
        basic: its basic estimate, the same shape.
        sigma: as in ``bm3d``.
    """
    pilot = _spectra(basic)
    return _filtered(_spectra(noisy), pilot, pilot, sigma, _SECOND, True, noisy.shape)


def _spectra(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """The orthonormal cosine transform of the block that begins at each pixel, (i - 7, j - 7, 64)."""
    blocks = np.lib.stride_tricks.sliding_window_view(image, (_SIDE, _SIDE))
    basis = _basis()
    return np.ascontiguousarray((basis @ blocks @ basis.T).reshape(*blocks.shape[:2], -1))


def _basis() -> NDArray[np.float32]:
    """Row n holds the n-th cosine."""
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
    """What each stack says of each pixel, the more of it left out the louder (Eqs. 10 to 12)."""
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
    """Every third block, and the last one, so that every pixel is in a stack."""
    return np.union1d(np.arange(0, count, _STRIDE), [count - 1])


def _jit(function: Callable[..., Any]) -> Any:
    """Compiled once a machine where numba finds a place to keep it, else once a process."""
    try:
        return njit(cache=True, nogil=True, fastmath=True)(function)
    except RuntimeError:
        return njit(nogil=True, fastmath=True)(function)


@_jit
def _matches(told: Any, row: int, column: int, limit: float, distances: Any, places: Any) -> int:
    """The nearest blocks (Eq. 5), nearest first, itself the first; how many, a power of two."""
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
    """The orthonormal Haar transform along the stack, in place: sums first, then ever finer differences."""
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
    """Undo ``_haar``."""
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
    """Leave out small coefficients, or shrink each by the pilot's energy (Eq. 8), in place; the stack's weight."""
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
    """Add a block's weighted pixels, transformed back, to the sums it lies in (Eq. 12)."""
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
    """Match, stack, filter and lay down again, one block after another."""
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
