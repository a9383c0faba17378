"""Places of things in a projection, however a volume is stored, and geometry that is impossible."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from medvit.errors import GeometryError
from medvit.physics.drr import (
    Geometry,
    Projector,
    volume_centre_mm,
)
from tests.bands import all_orientations, reorient
from tests.physics.test_drr import CONE, ONE_PIXEL


def test_all_48_ways_to_store_a_volume_give_one_picture(rng):
    body, affine = rng.random((9, 8, 10)), np.diag([10.0, 12.0, 9.0, 1.0])
    geometry = replace(CONE, isocenter_mm=volume_centre_mm(affine, body.shape))
    expected = Projector(geometry, affine, body.shape)(torch.from_numpy(body))
    for order, signs in all_orientations():
        moved, its_affine = reorient(body, affine, order, signs)
        found = Projector(geometry, its_affine, moved.shape)(torch.from_numpy(moved))
        assert (found - expected).abs().max() < 1e-9


def test_where_things_appear():
    """Right is left in an AP picture, front is left in a lateral one, the head is up; what is near the source is larger."""
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    geometry = Geometry(
        source_to_isocenter_mm=600.0,
        isocenter_to_detector_mm=200.0,
        detector_shape=(61, 61),
        pixel_spacing_mm=(4.0, 4.0),
    )
    body = torch.zeros(41, 41, 41, dtype=torch.float64)
    body[36, 20, 20] = 1  # to the right of the middle by 64 mm
    front, side = Projector(geometry, affine, body.shape)(body)
    row, column = np.unravel_index(int(front.argmax()), front.shape)
    assert (row, column) == (30, 30 - round(64 * geometry.magnification / 4))
    assert side.argmax() % 61 == 30
    body = torch.zeros_like(body)
    body[20, 36, 32] = 1  # in front by 64 mm and above by 48 mm
    front, side = Projector(geometry, affine, body.shape)(body)
    row, column = np.unravel_index(int(side.argmax()), side.shape)
    assert (row, column) == (30 - round(48 * geometry.magnification / 4), 30 - round(64 * geometry.magnification / 4))
    row, column = np.unravel_index(int(front.argmax()), front.shape)
    assert (row, column) == (30 - round(48 * 800 / (600 - 64) / 4), 30)


def test_detector_offset_and_isocenter_move_the_shadow():
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    body = torch.zeros(41, 41, 41, dtype=torch.float64)
    body[20, 20, 20] = 1
    geometry = Geometry(
        source_to_isocenter_mm=600.0,
        isocenter_to_detector_mm=200.0,
        detector_shape=(31, 31),
        pixel_spacing_mm=(4.0, 4.0),
        views_deg=(0.0,),
        detector_offset_mm=(8.0, -12.0),
    )
    at = int(Projector(geometry, affine, body.shape)(body).argmax())
    assert (at // 31, at % 31) == (15 - 2, 15 + 3)
    moved = replace(geometry, detector_offset_mm=(0.0, 0.0), isocenter_mm=(80.0, 80.0, 92.0))
    at = int(Projector(moved, affine, body.shape)(body).argmax())
    assert (at // 31, at % 31) == (15 + 4, 15)


def test_what_lies_behind_the_detector_does_not_count():
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    body = torch.ones(11, 101, 11, dtype=torch.float64)
    found = Projector(
        ONE_PIXEL,
        affine,
        body.shape,
    )(body)
    assert float(found) == pytest.approx(200 + 50, abs=4)  # half of 404 mm in front of the isocenter, 50 behind


def test_a_slice_one_voxel_thick():
    affine = np.diag([3.0, 5.0, 3.0, 1.0])
    body = torch.ones(11, 1, 11, dtype=torch.float64)
    found = Projector(
        ONE_PIXEL,
        affine,
        body.shape,
    )(body)
    assert float(found) == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source_to_isocenter_mm": -1.0}, "source_to_isocenter_mm = -1; it must be a positive length in millimetres"),
        ({"isocenter_to_detector_mm": math.nan}, "isocenter_to_detector_mm = nan"),
        ({"pixel_spacing_mm": (1.0, 0.0)}, r"pixel_spacing_mm \(columns\) = 0"),
        ({"detector_shape": (0, 4)}, "needs at least one row and one column"),
        ({"views_deg": ()}, "give at least one finite angle in degrees"),
        ({"views_deg": (math.inf,)}, "give at least one finite angle in degrees"),
    ],
)
def test_impossible_geometries(change, message):
    with pytest.raises(GeometryError, match=message):
        replace(CONE, **change)
