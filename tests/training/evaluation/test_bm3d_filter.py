"""BM3D: what leaves an image alone, what it gains, and its first step against the paper's formula in plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.fft import dctn, idctn

from medvit.training.evaluation.bm3d_filter import bm3d, hard_threshold_step, wiener_step
from medvit.training.evaluation.classical_denoisers import CLASSICAL


def _phantom(side: int = 96) -> NDArray[np.float64]:
    """HU of a disc in fat, a smaller one in it, and stripes over a third: flat parts, steps and texture."""
    y, x = np.mgrid[:side, :side] - side / 2
    stripes = np.where(x > 0.1 * side, 20 * np.sin(x / 2.5 + y / 4), 0)
    return np.where(np.hypot(x, y) < 0.4 * side, 40.0, -100.0) + 60 * (np.hypot(x + 12, y) < 12) + stripes


def _noisy(clean: NDArray[np.float64], sigma: float) -> NDArray[np.float32]:
    return (clean + np.random.default_rng(0).normal(0, sigma, clean.shape)).astype(np.float32)


def _psnr(image: NDArray[np.float32], clean: NDArray[np.float64]) -> float:
    return float(10 * np.log10(400**2 / np.mean((image - clean) ** 2)))


@pytest.mark.parametrize("shape", [(40, 31), (5, 40)])
def test_what_has_no_noise_is_given_back(shape):
    flat = np.full(shape, 1037.25, np.float32)
    assert np.allclose(bm3d(flat, 30.0), flat, atol=1e-3)
    image = _noisy(np.zeros(shape), 50.0)
    assert np.array_equal(bm3d(image, 0.0), image)
    found = bm3d(image, 1e-3)
    assert found.shape == shape and found.dtype == np.float32
    assert np.allclose(found, image, atol=2e-3)


@pytest.mark.parametrize(("sigma", "gain"), [(5.0, 10.0), (20.0, 10.0), (60.0, 12.0)])
def test_it_gains_more_than_non_local_means(sigma, gain):
    clean = _phantom()
    noisy = _noisy(clean, sigma)
    found = bm3d(noisy, sigma)
    assert _psnr(found, clean) > _psnr(noisy, clean) + gain
    assert (
        _psnr(CLASSICAL["bm3d"](noisy, sigma), clean) > _psnr(CLASSICAL["non_local_means"](noisy, sigma), clean) + 0.7
    )
    assert abs(float((found - noisy).mean())) < 0.1  # the mean stays: no pull towards 0 HU


def test_the_second_step_gains_on_the_first_and_units_do_not_matter():
    clean = _phantom(64)
    noisy = _noisy(clean, 20.0)
    basic = hard_threshold_step(noisy, 20.0)
    assert _psnr(wiener_step(noisy, basic, 20.0), clean) > _psnr(basic, clean) + 0.2
    scaled = bm3d(noisy / 256 + 7, 20.0 / 256)  # a power of two: the very same decisions
    assert np.allclose((scaled - 7) * 256, bm3d(noisy, 20.0), atol=0.05)


def _plain_first_step(noisy: NDArray[np.float32], sigma: float) -> NDArray[np.float64]:
    """Section III-A block after block, in float64: Eqs. 4 to 6, 10 and 12, and the mean of a stack kept."""
    starts = [(i, j) for i in range(noisy.shape[0] - 7) for j in range(noisy.shape[1] - 7)]
    spectra = {at: dctn(noisy[at[0] : at[0] + 8, at[1] : at[1] + 8].astype(float), norm="ortho") for at in starts}
    told = {}
    for at, s in spectra.items():
        told[at] = np.where(abs(s) > 2 * sigma, s, 0)
        told[at][0, 0] = s[0, 0]
    last = starts[-1]
    window = np.outer(np.kaiser(8, 2), np.kaiser(8, 2))
    total, weight = np.zeros(noisy.shape), np.zeros(noisy.shape)
    for at in starts:
        if any(n % 3 and n != end for n, end in zip(at, last, strict=True)):
            continue
        apart = {o: ((told[at] - told[o]) ** 2).mean() for o in starts if max(abs(np.subtract(at, o))) <= 19}
        apart[at] = -1.0
        near = sorted((o for o in apart if apart[o] <= 2.5 * sigma**2), key=lambda o: apart[o])[:16]
        near = near[: 2 ** int(np.log2(len(near)))]
        basis = _haar(len(near))
        stack = np.tensordot(basis, [spectra[o] for o in near], 1)
        keep = abs(stack) > 2.7 * sigma
        keep[0, 0, 0] = True
        for o, block in zip(near, np.tensordot(basis.T, stack * keep, 1), strict=True):
            here = np.s_[o[0] : o[0] + 8, o[1] : o[1] + 8]
            total[here] += window * idctn(block, norm="ortho") / keep.sum()
            weight[here] += window / keep.sum()
    return total / weight


def _haar(size: int) -> NDArray[np.float64]:
    if size == 1:
        return np.ones((1, 1))
    return np.concatenate([np.kron(_haar(size // 2), [1, 1]), np.kron(np.eye(size // 2), [1, -1])]) / np.sqrt(2)


def test_the_first_step_is_the_papers_formula():
    noisy = _noisy(_phantom(32)[:, 8:30], 15.0)
    expected = _plain_first_step(noisy, 15.0)
    assert np.abs(hard_threshold_step(noisy, 15.0) - expected).max() < 1e-3
    assert np.abs(expected - noisy).max() > 20
