"""Coarser and finer grids agree with the transform written out, and with functions whose values are known anywhere."""

from __future__ import annotations

import numpy as np
import pytest

from medvit.errors import ShapeError
from medvit.physics import low_frequency_part, upsampled_index, zero_fill
from medvit.physics.kspace import truncate_kspace


def _by_definition(image: np.ndarray, factor: int) -> np.ndarray:
    """Each coarse pixel by the sum over the kept frequencies of the two-dimensional transform, at the coarse pixel's centre."""
    n, m = image.shape
    spectrum = np.fft.fft2(image)
    out = np.zeros((n // factor, m // factor), complex)
    for a in range(n):
        for b in range(m):
            u, v = (a + n // 2) % n - n // 2, (b + m // 2) % m - m // 2
            if abs(u) < n / factor / 2 and abs(v) < m / factor / 2:
                x = np.arange(n // factor) * factor + (factor - 1) / 2
                y = np.arange(m // factor) * factor + (factor - 1) / 2
                wave = np.exp(2j * np.pi * (u * x[:, None] / n + v * y / m))
                out += spectrum[a, b] * wave / (n * m)
    assert np.abs(out.imag).max() < 1e-12
    return out.real


@pytest.mark.parametrize(("shape", "factor"), [((12, 8), 2), ((12, 16), 4), ((6, 10), 2), ((9, 12), 3), ((4, 4), 4)])
def test_truncation_is_the_sum_over_the_frequencies_that_are_kept(shape, factor, rng):
    image = rng.random(shape)
    assert np.allclose(truncate_kspace(image, factor), _by_definition(image, factor), atol=1e-6)
    assert truncate_kspace(image, factor).mean() == pytest.approx(image.mean(), abs=1e-6)


@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("side", [15, 16])
def test_a_wave_lies_where_it_lay(side, factor):
    """A wave below the coarse Nyquist frequency, sampled where the two grids' pixels lie, goes from one to the other exactly."""
    extent = 30.0

    def wave(pixels: int) -> np.ndarray:
        x = (np.arange(pixels) + 0.5) * extent / pixels
        return 3 + np.cos(2 * np.pi * 5 * x / extent + 0.7)[:, None] * np.sin(2 * np.pi * 4 * x / extent - 0.2)

    assert np.allclose(zero_fill(wave(side), factor), wave(side * factor), atol=1e-5)
    assert np.allclose(truncate_kspace(wave(side * factor), factor), wave(side), atol=1e-5)
    fast = np.cos(2 * np.pi * (side // 2 + 1) * (np.arange(side * factor) + 0.5) / (side * factor))
    assert (
        np.abs(truncate_kspace(np.outer(fast, np.ones(factor)), factor)).max() < 1e-6
    )  # beyond the coarse Nyquist frequency


def test_there_and_back_is_the_part_that_was_measured(rng):
    coarse = rng.random((7, 9, 2))
    assert np.allclose(truncate_kspace(zero_fill(coarse, 4), 4), coarse, atol=1e-6)  # odd sides have no line at Nyquist
    fine = rng.random((12, 8))
    low = low_frequency_part(fine, 2)
    assert np.allclose(low_frequency_part(low, 2), low, atol=1e-6)
    assert np.allclose(low_frequency_part(fine - low, 2), 0, atol=1e-6)
    assert abs(float(((fine - low) * low).sum())) < 1e-4  # a projection: the two parts have nothing in common


def test_the_line_at_nyquist_is_shared_and_no_slice_sees_another(rng):
    alternating = np.tile([1.0, -1.0], 4)[:, None] * np.ones((1, 4))
    x = (np.arange(16) + 0.5) / 2 - 0.5
    assert np.allclose(zero_fill(alternating, 2)[:, 0], np.cos(np.pi * x), atol=1e-6)
    stack = rng.random((6, 8, 3))
    assert np.array_equal(zero_fill(stack, 2)[..., 1], zero_fill(stack[..., 1], 2))
    assert zero_fill(stack, 1) == pytest.approx(stack)
    assert zero_fill(np.ones((1, 1, 1)), 2) == pytest.approx(np.ones((2, 2, 1)))


def test_the_finer_grid_fills_the_same_box():
    for factor in (2, 3, 4):
        index = upsampled_index(factor)
        corners = index @ np.array([[-0.5, -0.5, 0, 1], [8 * factor - 0.5, 6 * factor - 0.5, 4, 1]]).T
        assert np.allclose(corners.T, [[-0.5, -0.5, 0, 1], [7.5, 5.5, 4, 1]])
        first = index @ [0, 0, 0, 1]
        assert first[:2] == pytest.approx((1 / factor - 1) / 2)  # half a finer pixel within the coarse one's edge


def test_images_that_cannot_be_cut():
    with pytest.raises(
        ShapeError, match=r"slices of 7 x 8 pixels to make 2 times coarser; both sides must be multiples of the factor"
    ):
        truncate_kspace(np.ones((7, 8)), 2)
    for image, factor in ((np.ones(4), 2), (np.ones((4, 4)), 0), (np.ones((0, 4)), 2), (np.ones((1, 4, 4, 4)), 2)):
        with pytest.raises(ShapeError, match=r"an image of shape .* and a factor of .* are needed. Take off channel"):
            zero_fill(image, factor)
        with pytest.raises(ShapeError, match="at least one voxel and a factor of at least 1"):
            truncate_kspace(image, factor)
