"""Boxes, ellipsoids and turned boxes of known size, on straight and oblique grids."""

from __future__ import annotations

import numpy as np
import pytest

from medvit.errors import GeometryError, ShapeError
from medvit.reports.morphometry import measure_bones
from tests.bands import all_orientations, oblique_affine, reorient


def test_a_box_exactly():
    labels = np.zeros((40, 40, 40), np.uint8)
    labels[5:25, 10:20, 12:16] = 3
    (bone,) = measure_bones(labels, np.diag([2.0, 1.0, 3.0, 1.0]))
    assert (bone.id, bone.voxels) == (3, 800)
    assert bone.volume_ml == pytest.approx(4.8)
    assert bone.centroid_mm == pytest.approx((29.0, 14.5, 40.5))
    assert bone.size_mm == pytest.approx((40, 10, 12))
    assert bone.extents_mm == pytest.approx((40, 12, 10))
    assert np.allclose(np.abs(bone.axes), [[1, 0, 0], [0, 0, 1], [0, 1, 0]])
    assert np.linalg.det(bone.axes) == pytest.approx(1)


def test_an_ellipsoid_turned_in_space():
    """Half axes 30, 18 and 10 mm: extents within a voxel, direction within a degree, volume within 1 %."""
    affine = oblique_affine((1.0, 1.5, 2.0))
    index = np.stack(np.meshgrid(*[np.arange(n) for n in (90, 60, 50)], indexing="ij"), -1)
    place = index @ affine[:3, :3].T + affine[:3, 3]
    middle = affine[:3, :3] @ (44.0, 30.0, 25.0) + affine[:3, 3]
    turn = np.linalg.qr(np.array([[2.0, 1, 0], [1, -1, 1], [0.5, 1, 2]]))[0]
    inside = (((place - middle) @ turn / (30, 18, 10)) ** 2).sum(-1) <= 1
    (bone,) = measure_bones(inside.astype(np.int16), affine)
    assert np.abs(np.array(bone.extents_mm) - (60, 36, 20)).max() < 2
    assert np.abs(np.array(bone.centroid_mm) - middle).max() < 0.1
    assert bone.volume_ml == pytest.approx(4 / 3 * np.pi * 5.4, rel=0.01)
    for axis, true in zip(bone.axes, turn.T, strict=True):
        assert abs(axis @ true) > np.cos(np.radians(1))


@pytest.mark.parametrize(("right", "front"), [(0.0, 0.0), (20.0, 0.0), (-35.0, 0.0), (0.0, 15.0), (25.0, -10.0)])
def test_a_shaft_leans_as_it_was_put(right, front):
    """A femur-like shaft of 200 mm and 24 mm across, on an oblique grid with its third axis stored feet last."""
    affine = oblique_affine((3.0, 3.0, 4.0)) @ np.diag([1, 1, -1, 1])
    index = np.stack(np.meshgrid(*[np.arange(n) for n in (64, 64, 64)], indexing="ij"), -1)
    place = index @ affine[:3, :3].T + affine[:3, 3]
    lean = np.array([np.tan(np.radians(right)), np.tan(np.radians(front)), 1.0])
    lean /= np.linalg.norm(lean)
    away = place - (affine[:3, :3] @ (31.5, 31.5, 31.5) + affine[:3, 3])
    along = away @ lean
    inside = (np.abs(along) < 100) & (np.linalg.norm(away - along[..., None] * lean, axis=-1) < 12)
    (bone,) = measure_bones(inside.astype(np.uint8), affine)
    assert bone.tilt_deg == pytest.approx((right, front), abs=0.5)
    assert bone.extents_mm[0] == pytest.approx(200, abs=6) and bone.extents_mm[1] == pytest.approx(24, abs=6)


def test_all_48_ways_to_store_a_volume_measure_alike():
    labels = np.zeros((20, 18, 16), np.uint8)
    labels[3:15, 4:9, 5:12] = 1
    labels[14:15, 4:5, 5:14] = 1
    affine = oblique_affine((1.0, 2.0, 1.5))
    (expected,) = measure_bones(labels, affine)
    for order, signs in all_orientations():
        (found,) = measure_bones(*reorient(labels, affine, order, signs))
        assert found.centroid_mm == pytest.approx(expected.centroid_mm)
        assert found.extents_mm == pytest.approx(expected.extents_mm)
        assert found.size_mm == pytest.approx(expected.size_mm)
        assert np.allclose(found.axes, expected.axes)


def test_a_single_voxel_and_what_is_not_there():
    labels = np.zeros((5, 5, 5), np.int32)
    labels[2, 2, 2] = 7
    (bone,) = measure_bones(labels, np.diag([2.0, 2.0, 2.0, 1.0]), ids=(7, 9))
    assert bone.size_mm == pytest.approx((2, 2, 2))
    assert bone.volume_ml == pytest.approx(0.008)
    assert measure_bones(np.zeros((3, 3, 3), np.uint8), np.eye(4)) == []


def test_what_cannot_be_measured():
    with pytest.raises(ShapeError, match=r"labels of shape \(3, 3\) and uint8; whole numbers \(i, j, k\)"):
        measure_bones(np.zeros((3, 3), np.uint8), np.eye(4))
    with pytest.raises(ShapeError, match="float64; whole numbers"):
        measure_bones(np.zeros((3, 3, 3)), np.eye(4))
    sheared = np.eye(4)
    sheared[0, 1] = 0.5
    with pytest.raises(GeometryError, match="degrees away from square"):
        measure_bones(np.zeros((3, 3, 3), np.uint8), sheared)
