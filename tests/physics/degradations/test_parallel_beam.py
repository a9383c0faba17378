"""Projection and back-projection by parallel beams: chords of a disk, linearity, and the disk back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medvit.physics.degradations import ParallelBeam
from medvit.physics.degradations.low_dose_ct import MU_WATER_PER_MM
from tests.physics.degradations.bodies import disk_image

# --- the projector


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.8, 1.3)], ids=["square", "oblong pixels"])
def test_line_integrals_of_an_off_centre_disk_are_its_chords(spacing):
    beam, shape, radius, centre = ParallelBeam(24), (121, 95), 30.0, (7.0, -9.0)
    disk = torch.from_numpy(disk_image(shape, spacing, radius, centre) * MU_WATER_PER_MM)
    lines = beam.project(disk[None], spacing)[0].numpy()
    step = beam.bin_mm(spacing)
    place = (np.arange(lines.shape[1]) - (lines.shape[1] - 1) / 2) * step
    for view, found in enumerate(lines):
        angle = view * np.pi / 24
        offset = place - (centre[0] * np.cos(angle) + centre[1] * np.sin(angle))
        chord = 2 * np.sqrt(np.maximum(radius**2 - offset**2, 0)) * MU_WATER_PER_MM
        inside = np.abs(np.abs(offset) - radius) > 1.5 * max(spacing)  # the chord is steep at the rim
        assert np.abs(found - chord)[inside].max() < 0.012 * chord.max(), view


def test_projection_is_linear_and_keeps_the_total():
    beam, spacing = ParallelBeam(12), (1.0, 1.0)
    g = torch.Generator().manual_seed(0)
    a, b = (torch.from_numpy(disk_image((64, 64), spacing, 20.0)) * torch.rand(64, 64, generator=g) for _ in range(2))
    pa, pb, both = (beam.project(x[None], spacing) for x in (a, b, 2 * a + b))
    assert torch.allclose(both, 2 * pa + pb, atol=1e-4)
    # every view holds all of the mass
    assert torch.allclose(pa.sum(2) * beam.bin_mm(spacing), a.sum().expand(1, 12), rtol=0.01)


@pytest.mark.parametrize(("kernel", "limit"), [("ramp", 0.01), ("hann", 0.01)])
def test_back_projection_gives_the_disk_back(kernel, limit):
    spacing, radius = (0.9, 1.1), 35.0
    disk = disk_image((101, 91), spacing, radius)
    beam = ParallelBeam(240, kernel)
    found = beam.reconstruct(beam.project(torch.from_numpy(disk[None]), spacing), disk.shape, spacing)[0].numpy()
    inner = disk_image((101, 91), spacing, radius - 6) == 1
    assert abs(found[inner].mean() - 1) < 0.003
    assert np.abs(found[inner] - 1).max() < 3 * limit
    outer = disk_image((101, 91), spacing, radius + 6) == 0
    assert abs(found[outer].mean()) < limit
