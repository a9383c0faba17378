from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medvit.io.polygon_masks import fill_polygons, outline_mask


@settings(max_examples=150, deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 14), st.integers(1, 14))))
def test_any_mask_comes_back_exactly(mask):
    assert np.array_equal(fill_polygons(outline_mask(mask), mask.shape), mask)


def _ring() -> np.ndarray:
    y, x = np.mgrid[:40, :40]
    radius = np.hypot(y - 20, x - 19)
    return (radius < 15) & (radius > 6)


def test_a_hole_is_part_of_its_outline_not_a_contour_of_its_own():
    loops = outline_mask(_ring())
    assert len(loops) == 1
    assert np.array_equal(fill_polygons(loops, (40, 40)), _ring())


def test_an_island_in_a_hole_is_tissue_again():
    mask = _ring()
    mask[18:22, 18:21] = True
    loops = outline_mask(mask)
    assert len(loops) == 2
    assert np.array_equal(fill_polygons(loops, mask.shape), mask)


def test_many_holes_in_one_outline():
    mask = np.ones((30, 30), bool)
    mask[5:8, 5:9] = mask[15:20, 3:6] = mask[22:25, 20:27] = False
    loops = outline_mask(mask)
    assert len(loops) == 1
    assert np.array_equal(fill_polygons(loops, mask.shape), mask)


def test_every_outline_is_closed_and_tight():
    (loop,) = outline_mask(np.pad(np.ones((4, 6), bool), 3))
    assert not np.array_equal(loop[0], loop[-1])
    assert loop.min(0).tolist() == pytest.approx([2.52, 2.52])
    assert loop.max(0).tolist() == pytest.approx([6.48, 8.48])


def test_nothing_gives_nothing():
    assert outline_mask(np.zeros((5, 5), bool)) == []


def test_outlines_have_the_coordinates_of_the_whole_mask_to_the_last_bit():
    """A hole is joined where points are nearest, so that a rounding would move its channel."""
    from skimage.measure import find_contours

    mask = np.zeros((70, 60), dtype=bool)
    mask[41:63, 33:52] = _ring()[9:31, 9:28]
    whole = {tuple(point - 1) for loop in find_contours(np.pad(mask.astype(np.uint8), 1), 0.52) for point in loop}
    traced = outline_mask(mask)
    assert traced
    assert all(tuple(point) in whole for loop in traced for point in loop)
