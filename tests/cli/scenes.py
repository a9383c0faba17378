"""Geometry and bodies that several tests of commands share."""

from __future__ import annotations

import numpy as np

from tests.bands import oblique_affine

AFFINE = oblique_affine((1.1, 1.9, 2.5))


def bones() -> tuple[np.ndarray, np.ndarray]:
    """Bodies in air, each view's shadow of which no flip maps to itself; (i, j, k) HU and the affine."""
    values = np.full((60, 64, 70), -1000, np.int16)
    values[10:20, 20:44, 10:60], values[20:44, 38:48, 30:44], values[36:46, 10:22, 50:64] = 800, 300, 1500
    affine = np.diag([4.0, 4, 4, 1])
    affine[:3, 3] = (-120, -128, -140)
    return values, affine
