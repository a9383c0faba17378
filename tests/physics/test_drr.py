"""Radiographs of bodies whose shadow is known, the laws of the operator, and the published pictures."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from medvit.errors import GeometryError, ImageError, ShapeError
from medvit.physics.drr import (
    Geometry,
    Projector,
    attenuation_per_mm,
    volume_centre_mm,
    water_attenuation_per_mm,
)
from medvit.physics.drr.presets import swin_x2s_geometry
from tests.bands import oblique_affine

CONE = Geometry(
    source_to_isocenter_mm=700.0,
    isocenter_to_detector_mm=300.0,
    detector_shape=(23, 31),
    pixel_spacing_mm=(4.0, 3.0),
    views_deg=(0.0, 90.0, 33.0),
)
ONE_PIXEL = Geometry(
    source_to_isocenter_mm=600.0,
    isocenter_to_detector_mm=50.0,
    detector_shape=(1, 1),
    pixel_spacing_mm=(1.0, 1.0),
    views_deg=(0.0,),
)


def _chords(geometry: Geometry, affine: np.ndarray, shape, centre_mm, radius_mm: float) -> np.ndarray:
    """Length in mm that each ray runs within a sphere."""
    sources, pixels = geometry.rays(affine, shape)
    towards = pixels - sources[:, None, None]
    towards /= np.linalg.norm(towards, axis=-1, keepdims=True)
    offset = np.asarray(centre_mm) - sources[:, None, None]
    distance2 = (offset**2).sum(-1) - (offset * towards).sum(-1) ** 2
    return 2 * np.sqrt(np.maximum(radius_mm**2 - distance2, 0))


def _sphere(shape, affine: np.ndarray, centre_mm, radius_mm: float, fine: int = 3) -> np.ndarray:
    """Share of each voxel that lies within a sphere."""
    steps = (np.arange(fine) + 0.5) / fine - 0.5
    total = np.zeros(shape)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    for shift in np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3):
        place = (index + shift) @ affine[:3, :3].T + affine[:3, 3]
        total += np.linalg.norm(place - np.asarray(centre_mm), axis=-1) <= radius_mm
    return total / fine**3


def test_a_sphere_in_closed_form():
    """Off-centre, oblique, anisotropic: within 2 % of the diameter where rays do not graze, 0.5 % on average."""
    affine, shape = oblique_affine((1.5, 2.0, 1.0)), (61, 47, 83)
    centre = np.asarray(volume_centre_mm(affine, shape)) + (6.0, -4.0, 5.0)
    body = torch.from_numpy(_sphere(shape, affine, centre, 30.0))
    found = Projector(CONE, affine, shape)(0.02 * body).numpy()
    expected = 0.02 * _chords(CONE, affine, shape, centre, 30.0)
    assert expected.max() > 0.02 * 55
    deep = expected > 0.02 * 30  # a grazing ray's chord is the root of how deep it goes: voxels cannot say it
    assert np.abs(found - expected)[deep].max() < 0.02 * 60 * 0.02
    assert np.abs(found - expected).mean() < 0.02 * 60 * 0.005
    assert found.sum() == pytest.approx(expected.sum(), rel=0.002)


def test_a_box_in_closed_form():
    """Rays that enter and leave through the faces across the beam: exactly thickness over the cosine."""
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    body = torch.zeros(41, 41, 41, dtype=torch.float64)
    body[5:36, 10:31, 5:36] = 0.02
    geometry = Geometry(
        source_to_isocenter_mm=900.0,
        isocenter_to_detector_mm=100.0,
        detector_shape=(5, 7),
        pixel_spacing_mm=(6.0, 5.0),
        views_deg=(0.0,),
    )
    found = Projector(geometry, affine, body.shape)(body)[0].numpy()
    sources, pixels = geometry.rays(affine, body.shape)
    towards = pixels[0] - sources[0]
    cosine = np.abs(towards[..., 1]) / np.linalg.norm(towards, axis=-1)
    assert np.abs(found - 0.02 * 21 * 2.0 / cosine).max() < 1e-12
    assert found[2, 3] == pytest.approx(0.84, abs=1e-12)


def test_dense_integration_agrees():
    """The same rays integrated by brute force: 4000 trilinear samples each, by SciPy."""
    affine, shape = oblique_affine((2.0, 2.5, 3.0)), (24, 21, 19)
    zz = np.random.default_rng(0).normal(size=shape)
    body = np.exp(-(((np.indices(shape).T - [12, 10, 9]) / [5, 4, 4]) ** 2).sum(-1).T) * (1 + 0.05 * zz)
    geometry = Geometry(
        source_to_isocenter_mm=400.0,
        isocenter_to_detector_mm=150.0,
        detector_shape=(6, 5),
        pixel_spacing_mm=(9.0, 8.0),
        views_deg=(0.0, 90.0, 140.0),
    )
    found = Projector(geometry, affine, shape)(torch.from_numpy(body)).numpy()
    sources, pixels = geometry.rays(affine, shape)
    inverse = np.linalg.inv(affine)
    steps = (np.arange(4000) + 0.5) / 4000
    for view in range(3):
        way = pixels[view] - sources[view]
        place = sources[view] + steps[:, None, None, None] * way
        index = place @ inverse[:3, :3].T + inverse[:3, 3]
        values = map_coordinates(body, index.reshape(-1, 3).T, order=1).reshape(4000, 6, 5)
        expected = values.mean(0) * np.linalg.norm(way, axis=-1)
        assert np.abs(found[view] - expected).max() < 0.03 * expected.max()


def test_itk_ray_caster_agrees():
    """ITK's own, where the ``itk`` package is: SimpleITK has no ray caster."""
    itk = pytest.importorskip("itk", reason="the itk package is not installed; ITK's ray caster is only there")
    shape = (40, 36, 44)
    affine = np.diag([-2.0, -2.0, 2.0, 1.0])  # LPS axes, so that ITK's image has the identity as direction
    body = _sphere(shape, affine, volume_centre_mm(affine, shape), 25.0).astype(np.float32)
    geometry = Geometry(
        source_to_isocenter_mm=800.0,
        isocenter_to_detector_mm=200.0,
        detector_shape=(21, 17),
        pixel_spacing_mm=(4.0, 4.0),
        views_deg=(0.0,),
    )
    found = Projector(geometry, affine, shape)(torch.from_numpy(body))[0].numpy()
    image = itk.image_from_array(np.ascontiguousarray(body.transpose(2, 1, 0)))
    image.SetSpacing([2.0, 2.0, 2.0])
    caster = itk.RayCastInterpolateImageFunction[type(image), itk.D].New()
    caster.SetInputImage(image)
    caster.SetTransform(itk.IdentityTransform[itk.D, 3].New())
    caster.SetThreshold(0.0)
    sources, pixels = geometry.rays(affine, shape)

    def cast(shift_mm: float) -> np.ndarray:
        lps = np.array([-1.0, -1.0, 1.0])
        caster.SetFocalPoint([float(v) + shift_mm for v in sources[0] * lps])
        points = pixels[0] * lps + shift_mm
        return np.array([[caster.Evaluate(itk.Point[itk.D, 3](p.tolist())) for p in row] for row in points])

    # releases differ in whether a voxel's coordinates are its middle or its corner, half a voxel away
    apart = min(np.abs(found - cast(shift)).max() for shift in (0.0, 1.0))
    assert apart < 0.01 * found.max()


def test_the_adjoint(rng):
    shape = (13, 11, 17)
    projector = Projector(CONE, oblique_affine((9.0, 11.0, 7.0)), shape)
    x = torch.from_numpy(rng.normal(size=(2, *shape)))
    y = torch.from_numpy(rng.normal(size=(2, *projector.images_shape)))
    there, back = (projector(x) * y).sum(), (x * projector.adjoint(y)).sum()
    assert abs(there - back) < 1e-10 * (x.norm() * projector.adjoint(y).norm())
    assert there.abs() > 1


def test_gradients_are_the_adjoint_and_again_the_projection(rng):
    shape = (5, 4, 6)
    geometry = Geometry(
        source_to_isocenter_mm=300.0,
        isocenter_to_detector_mm=100.0,
        detector_shape=(3, 4),
        pixel_spacing_mm=(20.0, 20.0),
        views_deg=(0.0, 60.0),
    )
    projector = Projector(geometry, oblique_affine((9.0, 11.0, 7.0)), shape)
    x = torch.from_numpy(rng.normal(size=shape)).requires_grad_()
    y = torch.from_numpy(rng.normal(size=projector.images_shape)).requires_grad_()
    assert torch.autograd.gradcheck(projector, x)
    assert torch.autograd.gradcheck(projector.adjoint, y)
    assert torch.autograd.gradgradcheck(projector, x)


def test_it_is_linear_and_views_are_independent(rng):
    shape = (12, 10, 14)
    affine = oblique_affine((9.0, 11.0, 7.0))
    a, b = (torch.from_numpy(rng.normal(size=shape)) for _ in range(2))
    projector = Projector(CONE, affine, shape)
    assert (projector(2 * a - b) - (2 * projector(a) - projector(b))).abs().max() < 1e-10
    assert torch.equal(projector(torch.stack([a, b]))[1], projector(b))
    for n, view in enumerate(CONE.views_deg):
        single = Projector(replace(CONE, views_deg=(view,)), affine, shape)
        assert torch.equal(single(a)[0], projector(a)[n])


def test_float32_is_close_to_float64(rng):
    shape = (30, 25, 35)
    projector = Projector(swin_x2s_geometry((90, 75, 105)), oblique_affine((3.0, 3.0, 3.0)), shape)
    x = torch.from_numpy(rng.random(shape))
    exact = projector(x)
    assert (projector(x.float()) - exact).norm() < 1e-5 * exact.norm()


def test_small_chunks_give_the_same(rng, monkeypatch):
    shape = (13, 11, 17)
    x = torch.from_numpy(rng.normal(size=shape))
    projector = Projector(CONE, oblique_affine((9.0, 11.0, 7.0)), shape)
    whole, back = projector(x), projector.adjoint(torch.ones(projector.images_shape, dtype=torch.float64))
    monkeypatch.setattr("medvit.physics.drr.projector._SAMPLES", 100)
    assert torch.equal(projector(x), whole)
    assert (projector.adjoint(torch.ones_like(whole)) - back).abs().max() < 1e-10


def test_attenuation_of_water_air_and_bone():
    """NISTIR 5632: water 0.2059 /cm at 60 keV, 0.1707 at 100 keV."""
    assert water_attenuation_per_mm(60) == pytest.approx(0.02059)
    assert water_attenuation_per_mm(100) == pytest.approx(0.01707)
    assert 0.01837 < water_attenuation_per_mm(70) < 0.02059
    found = attenuation_per_mm(torch.tensor([0.0, -1000.0, -1100.0, 1000.0], dtype=torch.float64))
    assert found.tolist() == pytest.approx([0.02059, 0, 0, 0.04118])
    with pytest.raises(ShapeError, match="an energy of 5 keV; the table of water goes from 20 to 200"):
        attenuation_per_mm(torch.zeros(1), 5)


def test_a_tube_of_water_lets_through_what_physics_says():
    """200 mm of water at 60 keV: exp(-4.118) of the photons, through the whole chain from Hounsfield units."""
    affine = np.diag([5.0, 5.0, 5.0, 1.0])
    tube = torch.full((21, 60, 21), -1000.0, dtype=torch.float64)
    tube[:, 10:50] = 0
    projector = Projector(
        replace(ONE_PIXEL, source_to_isocenter_mm=1500.0, isocenter_to_detector_mm=300.0),
        affine,
        tube.shape,
    )
    assert float(torch.exp(-projector(attenuation_per_mm(tube)))) == pytest.approx(math.exp(-0.02059 * 200))


def test_volumes_and_images_that_do_not_fit():
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    sheared = affine.copy()
    sheared[0, 1] = 2
    with pytest.raises(GeometryError, match="degrees away from square"):
        Projector(CONE, sheared, (9, 9, 9))
    with pytest.raises(GeometryError, match="not a finite 4x4 matrix"):
        Projector(CONE, affine * np.nan, (9, 9, 9))
    with pytest.raises(GeometryError, match="source of the view at 0 degrees inside the volume of 2000 x 2000 x 40 mm"):
        Projector(CONE, affine, (500, 500, 10))
    with pytest.raises(ShapeError, match=r"volume of shape \(9, 9\); \(i, j, k\) is needed"):
        Projector(CONE, affine, (9, 9))
    projector = Projector(CONE, affine, (9, 9, 9))
    with pytest.raises(ShapeError, match=r"volume of shape \(9, 9, 8\); \(i, j, k\) = \(9, 9, 9\)"):
        projector(torch.zeros(9, 9, 8))
    with pytest.raises(
        ShapeError, match=r"set of images of shape \(3, 23, 30\); \(view, row, column\) = \(3, 23, 31\)"
    ):
        projector.adjoint(torch.zeros(3, 23, 30))
    with pytest.raises(ShapeError, match=r"volume of torch.int16; float is needed"):
        projector(torch.zeros(9, 9, 9, dtype=torch.int16))
    with pytest.raises(ImageError, match="NaN or infinite values in the volume"):
        projector(torch.full((9, 9, 9), torch.nan))
