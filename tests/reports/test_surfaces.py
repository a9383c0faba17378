"""Surfaces: closed whatever the mask, as large as they should be, in place."""

from __future__ import annotations

import numpy as np
import pytest

from medvit.errors import ShapeError
from medvit.io import Surface
from medvit.reports import surface_of
from tests.bands import oblique_affine


def _ball(radius: float, size: int = 40) -> np.ndarray:
    place = np.indices((size,) * 3) - (size - 1) / 2
    return (place**2).sum(0) <= radius**2


def test_a_ball_has_its_volume_area_and_place():
    affine = oblique_affine((1.5, 1.5, 1.5))
    mask = _ball(14)
    surface = surface_of(mask, affine)
    radius = 14 * 1.5
    assert surface.is_closed
    assert surface.volume_ml == pytest.approx(4 / 3 * np.pi * radius**3 / 1000, rel=0.02)
    assert surface.area_mm2 == pytest.approx(4 * np.pi * radius**2, rel=0.03)
    assert surface_of(mask, affine, smoothing=0).area_mm2 > 1.05 * surface.area_mm2
    middle = affine[:3, :3] @ np.full(3, 19.5) + affine[:3, 3]
    away = np.linalg.norm(surface.vertices - middle, axis=1)
    assert np.abs(away - radius).max() < 1.5


@pytest.mark.parametrize("flip", [1, -1])
def test_normals_face_outwards_on_any_axes(flip):
    surface = surface_of(_ball(8, 20), np.diag([flip, 1.0, 2.0, 1.0]))
    assert surface.volume_ml > 0 and surface.is_closed


@pytest.mark.parametrize("seed", range(6))
def test_random_masks_give_closed_surfaces(seed):
    """Voxels that touch at edges and corners alone are the hard case; the edge of the volume is another."""
    rng = np.random.default_rng(seed)
    mask = rng.random((12, 11, 13)) < (0.1, 0.3, 0.5, 0.7, 0.9, 0.97)[seed]
    surface = surface_of(mask, np.eye(4))
    assert surface.is_closed
    assert surface_of(mask, np.eye(4), smoothing=0).is_closed


def test_a_single_voxel_and_nothing():
    mask = np.zeros((3, 3, 3), bool)
    mask[0, 0, 0] = True
    assert surface_of(mask, np.eye(4)).is_closed
    with pytest.raises(ShapeError, match="0 voxels; three axes and at least one voxel"):
        surface_of(np.zeros((3, 3, 3), bool), np.eye(4))


def test_holes_and_flaps_are_seen():
    whole = surface_of(_ball(5, 14), np.eye(4))
    assert not Surface(whole.vertices, whole.faces[1:]).is_closed
    assert not Surface(whole.vertices, np.concatenate([whole.faces, whole.faces[:1]])).is_closed
    turned = whole.faces.copy()
    turned[0] = turned[0, ::-1]
    assert not Surface(whole.vertices, turned).is_closed
